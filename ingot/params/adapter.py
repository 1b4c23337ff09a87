"""Section `adapter`: how to train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ingot.params.core import Section


class Adapter(Section):
    engine: Literal["peft"]
    device: Literal["cpu", "cuda"]
    method: Literal["qlora", "lora"]
    double_quant: bool
    r: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[int, Field(ge=1, le=4096)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]], Field(min_length=1)]
    precision: Literal["fp32", "bf16", "fp16"]
    gradient_checkpointing: bool
    epochs: Annotated[float, Field(gt=0, le=1000)]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    accumulation: Annotated[int, Field(ge=1, le=4096)]
    packing: bool
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    scheduler: Literal["cosine", "linear", "constant_with_warmup"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    logging_steps: Annotated[int, Field(ge=1)]
    save_steps: Annotated[int, Field(ge=1)]
    save_total_limit: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def device_can(self) -> Adapter:
        if self.device == "cpu" and self.precision != "fp32":
            raise ValueError(f"precision {self.precision!r} trains on device cuda only; a CPU trains in fp32")
        if self.device == "cpu" and self.optimizer == "paged_adamw_8bit":
            raise ValueError(
                "optimizer 'paged_adamw_8bit' pages GPU memory: use adamw_torch or adamw_8bit on device cpu"
            )
        if len(set(self.target_modules)) != len(self.target_modules):
            raise ValueError("target_modules names a module twice")
        return self
