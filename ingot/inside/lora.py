"""Folding a LoRA adapter into weights, one tensor at a time: W + alpha/r · B·A."""

from __future__ import annotations

import json
from pathlib import Path

from ingot.inside.progress import StageError

PREFIX = "base_model.model."


class Adapter:
    """An adapter as PEFT writes it. `base` is what it is folded into: original, or nf4 (through the 4-bit round trip)."""

    def __init__(self, folder: Path, base: str):
        from safetensors.torch import load_file

        from ingot.inside import portable

        portable.use()
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config["peft_type"] != "LORA" or config.get("use_dora") or config.get("bias") != "none":
            raise StageError(f"{folder}: only plain LoRA adapters without bias can be folded in")
        self.scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
        self.base = base
        self.matrices = load_file(str(folder / "adapter_model.safetensors"))
        self.targets = {
            key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            for key in self.matrices
            if key.endswith(".lora_A.weight")
        }
        self.used: set[str] = set()
        if other := sorted(key for key in self.matrices if not key.endswith((".lora_A.weight", ".lora_B.weight"))):
            raise StageError(f"{folder}: {other[0]} cannot be folded in: it is no LoRA matrix of a linear layer")

    @property
    def count(self) -> int:
        """Tensors changed so far."""
        return len(self.used)

    def folded(self, key: str, weight):
        """The tensor `key` with the adapter folded in, in its own dtype; other tensors are returned as they are.

        The sum is formed in float32. Raises StageError when a targeted tensor does not change or is no longer finite.
        """
        import torch

        target = key.removesuffix(".weight")
        if target not in self.targets:
            return weight
        a = self.matrices[f"{PREFIX}{target}.lora_A.weight"].float()
        b = self.matrices[f"{PREFIX}{target}.lora_B.weight"].float()
        start = through_nf4(weight) if self.base == "nf4" else weight
        merged = (start.float() + self.scale * (b @ a)).to(weight.dtype)
        if torch.equal(merged, start):
            raise StageError(f"{key}: the adapter leaves it unchanged: it was not trained, or its effect rounds away")
        if not torch.isfinite(merged).all():
            raise StageError(f"{key}: no longer finite after the merge: training has diverged")
        self.used.add(target)
        return merged

    def all_used(self) -> None:
        """Raise StageError unless every target was found among the weights."""
        if missing := sorted(self.targets - self.used):
            raise StageError(
                f"the adapter targets {len(missing)} tensors that the base does not have, such as {missing[0]}: "
                "it was trained on another base"
            )


def through_nf4(weight):
    """The weight as the 4-bit base held it: quantised to NF4 with double quantisation, and back."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.float(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state).to(weight.dtype)
