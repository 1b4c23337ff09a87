"""The PEFT engine: a transformers model, bitsandbytes for the 4-bit base, every method. CPU or CUDA."""

from __future__ import annotations

import torch

from ingot.exact import cpu_math
from ingot.training import attention, methods
from ingot.training.job import Job
from ingot.training.params import Adapter

# The logits of a large vocabulary are formed for some of the trained tokens at once, never for all.
LOSS = "chunked_nll"


def begin(params: Adapter, length: int) -> None:
    """Before anything is computed: on a CPU, products whose bits do not depend on its maker."""
    if params.device == "cpu":
        cpu_math.use()


def fell_back() -> None:
    """Nothing: these kernels compute or fail."""


def model(job: Job):
    """The base with what is trained on it."""
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    params = job.params
    quantisation = methods.quantisation(params, job.dtype)
    if quantisation and params.shard:
        # FSDP shares out floating-point tensors alone, and leaves those be that have the type it computes in.
        quantisation.bnb_4bit_quant_storage = job.dtype
    loaded = AutoModelForCausalLM.from_pretrained(
        str(job.base),
        # All of a model's weights are trained in float32: steps this small would be lost in 16 bit.
        dtype=torch.float32 if params.method == "full" else job.dtype,
        quantization_config=quantisation,
        # Sharded, it goes to the GPUs share by share: no card has to hold the whole.
        device_map={"": "cpu" if params.shard else job.device},
        attn_implementation=attention.register() if attends_by_flash(job) else methods.attention(job.config),
        local_files_only=True,
        trust_remote_code=False,
    )
    loaded.config.use_cache = False
    if params.shard:
        vars(loaded).pop("hf_device_map", None)  # accelerate would insist on training where it was loaded
    methods.keep_layout(loaded)
    if params.method == "qlora":
        loaded = prepare_model_for_kbit_training(loaded, use_gradient_checkpointing=bool(job.recompute))
    return methods.adapted(loaded, params)


def attends_by_flash(job: Job) -> bool:
    """Asked for, or by itself where packing would otherwise mask a whole square of samples."""
    if job.params.attention == "auto":
        return job.params.device == "cuda" and job.params.packing and job.dtype != torch.float32 and _plain(job.config)
    return job.params.attention == "flash"


def _plain(config: dict) -> bool:
    """Whether attention is scores, softmax and sum: the kernel knows no caps on scores and no sinks."""
    return not config.get("attn_logit_softcapping") and config.get("model_type") not in ("gpt_oss",)
