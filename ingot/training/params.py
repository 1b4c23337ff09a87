"""Section `adapter`: how to train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ingot.params.core import Section

LOW_RANK = ("qlora", "lora", "dora")
# What Unsloth trains by attention of its own, into which `flash` is put. Others it sends through transformers, where it
# chooses: packed Gemma 3 by flex attention diverged on an H100, from a loss of 2.0 to 21 (benchmarks/README.md).
UNSLOTH_MODELS = ("llama", "mistral", "qwen2", "qwen3")
VIRTUAL = ("prompt", "prefix")  # tokens that stand beside the weights: no merge folds them in
SHARDED = ("qlora", "lora", "full")


class Adapter(Section):
    engine: Literal["auto", "unsloth", "peft"]
    device: Literal["cpu", "cuda"]
    gpus: Annotated[int, Field(ge=1, le=64)]
    shard: bool
    method: Literal["qlora", "lora", "dora", "ia3", "full", "prompt", "prefix"]
    double_quant: bool
    r: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[int, Field(ge=1, le=4096)]
    rslora: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]], Field(min_length=1)]
    virtual_tokens: Annotated[int, Field(ge=1, le=4096)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    attention: Literal["auto", "flash", "sdpa"]
    gradient_checkpointing: Literal["auto", "off", "on", "unsloth"]
    epochs: Annotated[float, Field(gt=0, le=1000)]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    accumulation: Annotated[int, Field(ge=1, le=4096)]
    packing: bool
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    scheduler: Literal["cosine", "linear", "constant_with_warmup"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    logging_steps: Annotated[int, Field(ge=1)]
    eval_steps: Annotated[int, Field(ge=0)]
    keep: Literal["last", "best"]
    patience: Annotated[int, Field(ge=0)]
    save_steps: Annotated[int, Field(ge=1)]
    save_total_limit: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def can_be_done(self) -> Adapter:
        if faults := [*self._device(), *self._shard(), *self._method(), *self._evaluation()]:
            raise ValueError("; ".join(faults))
        return self

    def _device(self):
        if self.device == "cpu":
            if self.precision not in ("auto", "fp32"):
                yield f"precision {self.precision!r} trains on device cuda only; a CPU trains in fp32 (auto)"
            if self.optimizer.startswith("paged"):
                yield f"optimizer {self.optimizer!r} pages GPU memory: take adamw_torch or adamw_8bit on device cpu"
            if self.engine == "unsloth":
                yield "engine 'unsloth' needs device cuda: take auto or peft on a CPU"
            if self.gpus != 1:
                yield f"gpus {self.gpus} on device cpu: a CPU build is one process; set it to 1"
            if self.attention == "flash":
                yield "attention 'flash' is a GPU kernel: take auto on device cpu"
        if self.attention == "flash" and self.precision == "fp32":
            yield "attention 'flash' computes in 16 bit: take precision auto, bf16 or fp16, or attention sdpa"
        if self.accumulation % self.gpus:
            yield (
                f"accumulation {self.accumulation} must be a multiple of gpus {self.gpus}: "
                "they share the rows of an update, so that its size stays batch_size × accumulation"
            )

    def _shard(self):
        if not self.shard:
            return
        if self.gpus == 1:
            yield "shard shares the base among GPUs, and gpus is 1: set it to false, or gpus to how many there are"
        if self.engine == "unsloth":
            yield "shard with engine 'unsloth': its kernels read whole weights; take auto or peft"
        if self.method not in SHARDED:
            yield f"shard trains {', '.join(SHARDED)}, and method is {self.method!r}: set it to false"
        if self.precision == "fp16":
            yield "shard with precision 'fp16', whose scale a run that goes on would lose: take auto or bf16"
        if self.keep == "best":
            yield "shard with keep 'best': a model in shares does not go back to an earlier checkpoint; take last"
        if not self.optimizer.startswith("adamw_torch"):
            yield (
                f"shard with optimizer {self.optimizer!r}, which reads whole tensors: "
                "take adamw_torch or adamw_torch_fused"
            )

    def _method(self):
        if len(set(self.target_modules)) != len(self.target_modules):
            yield "target_modules names a module twice"
        if self.engine == "unsloth" and self.method not in ("qlora", "lora"):
            yield f"engine 'unsloth' trains qlora and lora; for {self.method} take auto or peft"
        if self.rslora and self.method not in LOW_RANK:
            yield f"rslora scales low-rank adapters, and method is {self.method!r}: set it to false"
        if self.dropout and self.method not in LOW_RANK:
            yield f"dropout is that of low-rank adapters, and method is {self.method!r}: set it to 0.0"
        if self.method in VIRTUAL and self.packing:
            yield f"packing with method {self.method!r}: its virtual tokens begin each sequence, so pack nothing"
        if self.method == "prefix" and self.gradient_checkpointing not in ("off", "auto"):
            yield "gradient_checkpointing with method 'prefix': its keys and values would be lost; take off"

    def _evaluation(self):
        if self.keep == "best" and (not self.eval_steps or self.save_steps % self.eval_steps):
            yield (
                f"keep 'best' compares checkpoints by held-out loss: save_steps ({self.save_steps}) must be a multiple "
                f"of eval_steps ({self.eval_steps}), and neither 0"
            )
        if self.patience and self.keep != "best":
            yield f"patience {self.patience} stops when the best stays behind, so keep must be 'best'"
