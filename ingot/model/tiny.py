"""A small base model from a seed: Qwen2's architecture and its real tokenizer, random weights that LoRA can teach."""

from __future__ import annotations

from pathlib import Path

from ingot.chat.encoding import jinja
from ingot.exact.files import write_json, write_text
from ingot.llama import gguf_check
from ingot.model.params import Tiny

VOCABULARY = "ggml-vocab-qwen2.gguf"


def make(out: Path, shape: Tiny, vocabularies: Path) -> None:
    """Write config, weights (bfloat16 safetensors) and tokenizer into `out`, as a hub repository holds them.

    `vocabularies` is llama.cpp's models folder. The weights are drawn by numpy's PCG64, whose stream is the same on
    every machine, normal with `shape.std`: at the usual 0.02 the tied embeddings keep the logits so flat that LoRA
    learns nothing.
    """
    from tokenizers import AddedToken, processors
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    # Not from_pretrained(gguf_file=…), which makes the same, but reads the file ten times as long.
    known = gguf_check.metadata(vocabularies / VOCABULARY)
    words, merges = known["tokenizer.ggml.tokens"], known["tokenizer.ggml.merges"]
    tokenizer = Qwen2Tokenizer(
        vocab={word: token for token, word in enumerate(words)}, merges=[tuple(merge.split(" ")) for merge in merges]
    )
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend.add_special_tokens([AddedToken(control, normalized=False, special=True) for control in controls])
    backend.save(str(out / "tokenizer.json"))
    end, pad = "<|im_end|>", "<|endoftext|>"
    # As Qwen2.5's own repositories have it, rather than what save_pretrained of transformers 5 writes.
    write_json(
        out / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": end,
            "errors": "replace",
            "model_max_length": shape.positions,
            "pad_token": pad,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    write_text(out / "chat_template.jinja", jinja("chatml"))

    config = Qwen2Config(
        vocab_size=151_936,  # as Qwen2's published models: the vocabulary and its reserve
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids(pad),
        eos_token_id=tokenizer.convert_tokens_to_ids(end),
        pad_token_id=tokenizer.convert_tokens_to_ids(pad),
        dtype="bfloat16",
        architectures=["Qwen2ForCausalLM"],
    )
    config.save_pretrained(out)
    GenerationConfig(
        do_sample=False, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(out)

    draw(out, Qwen2ForCausalLM, config, shape.seed, shape.std)


def draw(out: Path, kind, config, seed: int, std: float) -> None:
    """Write model.safetensors into `out`: the weights of the transformers class `kind`, bfloat16, normal with `std`.

    Norms are one, biases zero.
    """
    import numpy
    import torch
    from safetensors.torch import save_file

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in kind(config).named_parameters()}
    generator = numpy.random.Generator(numpy.random.PCG64(seed))
    weights = {}
    for key in sorted(shapes):
        if key.endswith("norm.weight"):
            weights[key] = torch.ones(shapes[key], dtype=torch.bfloat16)
        elif key.endswith("bias"):
            weights[key] = torch.zeros(shapes[key], dtype=torch.bfloat16)
        else:
            drawn = generator.standard_normal(tuple(shapes[key]), dtype=numpy.float32) * numpy.float32(std)
            weights[key] = torch.from_numpy(drawn).to(torch.bfloat16)
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})
