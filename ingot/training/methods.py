"""What is trained, by `adapter.method`: PEFT's configuration for each."""

from __future__ import annotations

import torch

from ingot.console.progress import StageError
from ingot.training.params import LOW_RANK, Adapter

# Layers whose input, not whose output, IA3 scales: the last of a feed-forward block.
FEED_FORWARD = ("down_proj", "fc2", "w2")


def adapted(model, params: Adapter):
    """The model with its fresh adapter; with all of its weights trainable for `full`."""
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

    if params.method == "full":
        return model.requires_grad_(True)
    check_targets(model, params)
    if params.method in LOW_RANK:
        config = LoraConfig(
            r=params.r, lora_alpha=params.alpha, lora_dropout=params.dropout,
            target_modules=list(params.target_modules), use_rslora=params.rslora,
            use_dora=params.method == "dora", bias="none", task_type="CAUSAL_LM",
        )  # fmt: skip
    elif params.method == "ia3":
        inputs = [module for module in params.target_modules if module in FEED_FORWARD]
        config = IA3Config(
            target_modules=list(params.target_modules), feedforward_modules=inputs, task_type="CAUSAL_LM"
        )
    else:
        kind = PromptTuningConfig if params.method == "prompt" else PrefixTuningConfig
        config = kind(num_virtual_tokens=params.virtual_tokens, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def check_targets(model, params: Adapter) -> None:
    """Raise StageError unless every target is a linear layer of the model, for `qlora` in 4 bit.

    Where bitsandbytes does not work, Unsloth would train in 16 bit instead, with a line of log.
    """
    from bitsandbytes.nn import Linear4bit

    present = {
        name.rsplit(".", 1)[-1]: isinstance(module, Linear4bit)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    }
    if missing := [module for module in params.target_modules if module not in present]:
        raise StageError(
            f"adapter.target_modules: {', '.join(missing)}: no linear layer of the base that a merge could fold back; "
            f"those are {', '.join(sorted(present))}"
        )
    if params.method == "qlora" and not all(present[module] for module in params.target_modules):
        raise StageError(
            "adapter.method: qlora, but the base was not loaded in 4 bit: bitsandbytes does not work here; "
            "`python -m bitsandbytes` says why"
        )
    if params.method == "qlora" and params.device == "cpu":
        _check_widths(model)


def _check_widths(model) -> None:
    """Raise StageError where a layer's inputs are not whole blocks of 64 weights.

    On CPUs with AVX-512, bitsandbytes 0.50 takes each row's blocks from the row's start, and reads wrong weights there;
    other CPUs read the right ones (its pull request 2072 compares the two).
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit) and module.in_features % module.weight.blocksize:
            raise StageError(
                f"adapter.method: qlora: {name} has {module.in_features} inputs; on a CPU, bitsandbytes reads 4-bit "
                f"weights right only where that is a multiple of {module.weight.blocksize}\n"
                "hint: set adapter.method: lora, or train on a GPU (adapter.device: cuda)"
            )


def attention(config: dict) -> str:
    """By which of transformers' implementations: its SDPA silently leaves out the cap that Gemma 2 puts on scores."""
    return "eager" if config.get("attn_logit_softcapping") else "sdpa"


def keep_layout(model) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes would repack 4-bit weights at the first evaluation: not what is trained."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantisation(params: Adapter, dtype):
    """bitsandbytes' settings for `qlora`, None for the others."""
    from transformers import BitsAndBytesConfig

    if params.method != "qlora":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=params.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
