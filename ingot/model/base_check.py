"""Is this base model one that the whole pipeline can carry? Asked before anything is trained on it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ingot.chat import encoding, parity
from ingot.console.progress import StageError, foreign
from ingot.llama import llamacpp
from ingot.model import tokenizer_files, weights
from ingot.model.base_files import INDEX, in_index, json_of
from ingot.model.base_tensors import check_rows, check_tensors, load_config, tensors_of

# What goes through every stage in tests/pipeline/test_families.py, by the architecture in config.json.
ARCHITECTURES = {
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen",
    "Qwen3ForCausalLM": "Qwen3",
    "LlamaForCausalLM": "Llama 2, Llama 3.x, CodeLlama, DeepSeek-R1-Distill-Llama",
    "MistralForCausalLM": "Mistral 7B, Nemo, Small without eyes",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3 without eyes (270M, 1B)",
    "Phi3ForCausalLM": "Phi-4 14B",
}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
SENSES = ("vision_config", "audio_config")
# llama.cpp attends by a window in these; in the others it sees everything, whatever config.json says.
WINDOWED = ("Gemma2ForCausalLM", "Gemma3ForCausalLM")
# What is read of these files, here or by transformers, and of which types it is.
TYPES: dict[str, dict[str, tuple[type, ...]]] = {
    "tokenizer.json": {"model": (dict,), "added_tokens": (list,)},
    "tokenizer_config.json": {
        "model_max_length": (int, float), "added_tokens_decoder": (dict,), "bos_token": (str, dict),
        "eos_token": (str, dict), "pad_token": (str, dict), "unk_token": (str, dict), "tokenizer_class": (str,),
        "chat_template": (str, list),
    },
    "generation_config.json": {"eos_token_id": (int, list), "temperature": (int, float), "max_length": (int,)},
}  # fmt: skip
RIGHT = {int: "a number", float: "a fraction", str: "a text", dict: "a section", list: "a list"}
LARGEST = 2**40  # of the numbers in a config.json
LAYERS = 2000


def check_config(folder: Path) -> dict:
    """config.json, when what is read of it is of the right types and sizes. Raises StageError that names the key."""
    config, path = json_of(folder / "config.json"), folder / "config.json"

    def wrong(key: str, value: Any, right: str) -> StageError:
        shown = repr(value)
        return StageError(f"{path}: {key}: {shown[:80]}: must be {right}\nhint: fetch the base again")

    names = config.get("architectures", [])
    if not (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))):
        raise wrong("architectures", names, "a list of names")
    for key, kind, right in (
        ("quantization_config", dict, "a section"),
        ("model_type", str, "a name"),
        ("vocab_size", int, "a number"),
        ("sliding_window", int, "a number"),
        ("max_position_embeddings", int, "a number"),
        ("tie_word_embeddings", bool, "true or false"),
    ):
        if config.get(key) is not None and type(config[key]) is not kind:
            raise wrong(key, config[key], right)
    for key, value in config.items():
        if key.startswith(("num_", "hidden_", "intermediate_")) and key.endswith(("_layers", "_size", "_heads")):
            most = LAYERS if key.endswith("_layers") else 2**24
            if value is not None and not (type(value) is int and 0 <= value <= most):
                raise wrong(key, value, f"a number from 0 to {most:,}")
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise wrong(key, value, f"a number up to {LARGEST:,}")
    return config


def check(folder: Path, template: str, length: int) -> int:
    """Raise StageError, naming what is missing, unless the folder is a complete base that every stage can carry.

    `length`: the longest conversation, in tokens. Returns the number of parameters in its safetensors files.
    """
    with foreign(f"{folder}: cannot be read as a base", "fetch it again, or take another"):
        config = check_config(folder)
        check_architecture(folder, config)
        check_window(folder, length)
        check_complete(folder)
        for name, kinds in TYPES.items():
            content = json_of(folder / name) if (folder / name).is_file() else {}
            for key, kind in kinds.items():
                if (value := content.get(key)) is not None and type(value) not in kind:
                    right = " or ".join(RIGHT[one] for one in kind)
                    raise StageError(
                        f"{folder / name}: {key}: {value!r:.80}: must be {right}\nhint: fetch the base again"
                    )
        tokenizer = encoding.load_tokenizer(folder)
        encoding.check_template(tokenizer, template)
        tensors = tensors_of(folder)
        check_rows(folder, config, tensors, len(tokenizer))
        check_tensors(folder, tensors)
        _check_converted(folder, template)
        return weights.parameters(folder)


def untrained_end(folder: Path, template: str) -> str | None:
    """A warning where the base never learnt to end a turn, as one that was never tuned to chat has not."""
    end = encoding.END_OF_TURN[template]
    tokens = {one["content"]: one["id"] for one in json_of(folder / "tokenizer.json").get("added_tokens", [])}
    if end not in tokens or not (why := weights.untrained(folder, tokens[end])):
        return None
    return (
        f"the base was never trained on {end}, which ends an answer in template {template}: {why}\n"
        "  hint: it takes some hundred updates until answers end; or take the instruct model of this base, or a "
        "template whose end token it knows"
    )


def check_architecture(folder: Path, config: dict) -> None:
    """Raise StageError, with the reason, unless the architecture is one that is carried."""
    name = (config.get("architectures") or ["none"])[0]
    section = config.get("quantization_config")
    method = (section or {}).get("quant_method") or ("by a method without a name" if section is not None else None)
    if not method and (key := next((key for key in ("quantization", "compression_config") if key in config), None)):
        method = "MLX" if key == "quantization" else key
    if method:
        why = f"its weights are quantised ({str(method)[:40]}); take the 16-bit repository that they were made from"
    elif name in ARCHITECTURES:
        return
    elif any(config.get(key) for key in EXPERTS):
        why = (
            "it is a mixture of experts: transformers keeps a layer's experts stacked in one tensor, no linear layers "
            "that an adapter could target or a merge fold back"
        )
    elif any(key in config for key in SENSES) or name.endswith("ForConditionalGeneration"):
        why = (
            "it sees or hears: only its text part would be converted, under tensor names that the adapter does not have"
        )
    elif not name.endswith("ForCausalLM"):
        why = "it is no causal language model: it cannot answer"
    else:
        why = "nothing proves that it comes through training, merge and conversion unchanged"
    raise StageError(
        f"{folder}: the architecture {name} is not carried: {why}. Those that are: "
        + "; ".join(f"{known} ({families})" for known, families in ARCHITECTURES.items())
    )


def window(folder: Path) -> int | None:
    """How many tokens back the model sees in training but not in llama.cpp; None where both see the same."""
    config = load_config(folder)
    return None if config.architectures[0] in WINDOWED else getattr(config, "sliding_window", None)


def check_window(folder: Path, length: int) -> None:
    """Raise StageError where training would see less of a conversation than llama.cpp does."""
    if (seen := window(folder)) and seen < length:
        raise StageError(
            f"{folder}: sliding_window is {seen}, shorter than max_seq_length ({length}), and llama.cpp ignores it\n"
            f"hint: set max_seq_length to {seen} or less"
        )


def check_context(folder: Path, context: int) -> None:
    """Raise StageError where a served conversation could be longer than the model can see in training."""
    if (seen := window(folder)) and seen < context:
        raise StageError(
            f"modelfile.num_ctx: {context} tokens; the base's sliding_window is {seen}, "
            "and llama.cpp would see beyond it\n"
            f"hint: set modelfile.num_ctx to {seen} or less; nothing is trained anew for it"
        )


def check_complete(folder: Path) -> None:
    """Raise StageError, naming what is missing, unless all weights of the index are there, and a tokenizer."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise StageError(
            f"{folder}: no model*.safetensors; pickled weights (.bin, .pt) are not read, for they can run code"
        )
    index = folder / INDEX
    if len(weights) > 1 or index.is_file():
        listed = in_index(folder)
        present = {path.name for path in weights}
        if missing := sorted(listed - present):
            raise StageError(
                f"{folder}: {index.name} lists {', '.join(missing)}, which is not there: fetch the base again"
            )
        if extra := sorted(present - listed):
            raise StageError(
                f"{folder}: {', '.join(extra)} is in no {index.name}; the converter would merge it in: remove it"
            )
    if not (folder / "tokenizer.json").is_file():
        beside = " beside tokenizer.model" if (folder / "tokenizer.model").is_file() else ""
        raise StageError(
            f"{folder}: no tokenizer.json{beside}, and all stages read that one\nhint: {encoding.MAKES_ONE}"
        )
    if not (folder / "tokenizer_config.json").is_file():
        raise StageError(
            f"{folder}: no tokenizer_config.json: without it the converter writes no chat template and no BOS; take "
            "the file from the model's own repository"
        )


def _check_converted(folder: Path, template: str) -> None:
    """Let the real converter read config and vocabulary, then the real engines render by them, before any training."""
    with tempfile.TemporaryDirectory() as scratch:
        model, vocabulary = Path(scratch) / "model", Path(scratch) / "vocabulary.gguf"
        model.mkdir()
        tokenizer_files.files(folder, encoding.jinja(template), model)
        (model / INDEX).unlink(missing_ok=True)  # the converter would open the shards that it lists
        try:
            llamacpp.convert(model, vocabulary, "vocabulary", "f16", vocabulary_only=True)
        except StageError as error:
            said = str(error)
            known = "pre-tokenizer was not recognized" not in said and "get_vocab_base_pre" not in said
            reason = "cannot read its vocabulary" if known else "does not know its pre-tokenizer"
            raise StageError(
                f"{folder}: this base cannot become a GGUF: llama.cpp's converter {reason}{_saved_anew(folder)}. "
                f"Choose another base. The converter said:\n{said}"
            ) from None
        try:
            parity.check(
                model, encoding.jinja(template), vocabulary, encoding.go_template(template), "Answer briefly.", template
            )
        except StageError as error:
            raise StageError(
                f"{folder}: its tokenizer, as it was trained with, and the one that its GGUF would carry do not agree"
                f"{_saved_anew(folder)}. Choose another base, or template.\n{error}"
            ) from None


def _saved_anew(folder: Path) -> str:
    if json_of(folder / "tokenizer_config.json").get("tokenizer_class") != "TokenizersBackend":
        return ""
    return " (transformers 5 has saved its tokenizer anew, without what the converter reads: take the original's files)"
