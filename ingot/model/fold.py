"""Folding an adapter into weights, some rows of a tensor at a time, to the same bits on every CPU and GPU.

    LoRA   W + s·B·A
    DoRA   m · (W + s·B·A) / ‖W + s·B·A‖, row by row
    IA3    W · l, and the bias · l where l scales the outputs
    full   the trained weight itself

All is computed in float64 and rounded to the weight's type at the end. That alone leaves a chance: libraries sum in
different orders, float64 sums then differ by 2^-50 or so, and that turns the rounding of one 16-bit weight in 2^40; a
7B model has 2^33. So no bit here depends on an order of sums: B·A is exact (`on_grid`), norms are summed by a fixed
tree (`row_norms`), and the rest is one correctly rounded operation an element.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

from ingot.console.progress import StageError
from ingot.exact import cpu_math

TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
PREFIX = "base_model.model."
# Settings of adapter_config.json that are read here, or that a finished adapter's arithmetic does not depend on.
# Any other that is set is refused: PEFT adds new ones with every release.
KNOWN = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "feedforward_modules",
    "init_ia3_weights", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "eva_config",
    "bias", "megatron_core", "qalora_group_size",
}  # fmt: skip
METHODS = "adapter.method qlora, lora, dora, ia3 or full"

# Rows of a weight in its own type, and the first one's number → those rows folded, not yet rounded.
Fold = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: its file, its type as safetensors calls it, its shape, its bytes' place and number.

    What has more or fewer than two dimensions is read as a matrix of as many rows as its first has.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.size // max(self.rows, 1)


def layout(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, by name."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    header.pop("__metadata__", None)
    return {
        name: Tensor(path, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin)
        for name, entry in header.items()
        for begin, end in [entry["data_offsets"]]
    }


def tensors_in(folder: Path) -> dict[str, Tensor]:
    """The tensors of all safetensors files in a folder."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        some = layout(path)
        if twice := found.keys() & some.keys():
            name = min(twice)
            raise StageError(
                f"{name} is both in {found[name].path} and in {path}: remove the file that is not the model's"
            )
        found |= some
    return found


def read(folder: Path, device: str) -> Adapter:
    """The adapter in a folder, as PEFT or, for full fine-tuning, transformers writes it; others are refused by name."""
    if device == "cuda" and not torch.cuda.is_available():
        raise StageError(
            "merged.device: 'cuda', but PyTorch sees no CUDA device here: run where one is, "
            "or set merged.device to cpu, which makes the same bytes"
        )
    file = folder / "adapter_config.json"
    if not file.is_file():
        return Full(folder)
    config = json.loads(file.read_text(encoding="utf-8"))
    kind = config["peft_type"]
    if kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING"):
        raise StageError(
            f"{folder}: {kind} trains virtual tokens that stand beside the weights: there is nothing to fold into "
            f"them, and a GGUF cannot hold them; train with {METHODS}"
        )
    if kind not in ("LORA", "IA3"):
        raise StageError(f"{folder}: adapters of the kind {kind} cannot be folded in; train with {METHODS}")
    for key, value in sorted(config.items()):
        if value and key not in KNOWN:
            raise StageError(f"{folder}: {key} is {value!r}: such adapters cannot be folded in; train without {key}")
    return (Lora if kind == "LORA" else Ia3)(folder, config, device)


class Adapter:
    """What the kinds share: their matrices, by target and by what follows it in the file."""

    parts: tuple[str, ...] = ()

    def __init__(self, folder: Path, config: dict[str, Any], device: str):
        from safetensors.torch import load_file

        cpu_math.use()  # for its square root; the products here are exact whoever forms them
        self.device = device
        self.targets: dict[str, dict[str, torch.Tensor]] = {}
        for key, matrix in sorted(load_file(str(folder / "adapter_model.safetensors")).items()):
            part = next((part for part in self.parts if key.endswith(f".{part}")), None)
            if part is None or not key.startswith(PREFIX):
                raise StageError(
                    f"{folder}: {key} cannot be folded in: it is no {config['peft_type']} matrix of a linear layer"
                )
            self.targets.setdefault(key.removeprefix(PREFIX).removesuffix(f".{part}"), {})[part] = matrix
        for target, matrices in self.targets.items():
            if missing := [part for part in self.parts if part not in matrices]:
                raise StageError(f"{folder}: {target} has no {missing[0]}: the adapter is not whole; train it again")

    def check_base(self, base: dict[str, Tensor]) -> None:
        """Raise StageError unless every target is a weight of the base, of the adapter's shape and a known type."""
        names = {target: f"{target}.weight" for target in self.targets}
        if missing := sorted(name for name in names.values() if name not in base):
            raise StageError(
                f"the adapter targets {len(missing)} tensors that the base does not have, such as {missing[0]}: "
                "it was trained on another base"
            )
        for target, name in names.items():
            if not self.fits(target, base[name].shape):
                raise StageError(
                    f"{name}: the base's has the shape {list(base[name].shape)}, which the adapter's does not fit: "
                    "it was trained on another base"
                )
            if base[name].dtype not in TYPES:
                raise StageError(
                    f"{name}: its type {base[name].dtype} is none of {', '.join(TYPES)}: "
                    "use a base that is not quantised"
                )

    def check_effect(self, changed: set[str]) -> None:
        """Raise StageError unless every targeted weight is among the changed."""
        if same := sorted({f"{target}.weight" for target in self.targets} - changed):
            raise StageError(
                f"{same[0]}: the adapter leaves it unchanged: it was not trained, or its effect rounds away"
            )

    def fits(self, target: str, shape: tuple[int, ...]) -> bool:
        raise NotImplementedError

    def fold(self, name: str) -> Fold | None:
        """How the tensor is folded, its rows being on `device`; None: it stays as it is."""
        raise NotImplementedError


class Lora(Adapter):
    """LoRA; rank-stabilised LoRA, whose scale is alpha / √r; DoRA, whose rows are then brought to a trained length."""

    def __init__(self, folder: Path, config: dict[str, Any], device: str):
        start = config.get("init_lora_weights", True)
        if start not in (True, False, "gaussian", "orthogonal", "eva"):
            raise StageError(
                f"{folder}: init_lora_weights is {start!r}, which changes the base as well: train with true"
            )
        if config["bias"] != "none":
            raise StageError(
                f"{folder}: bias is {config['bias']!r}: trained biases cannot be folded in; train with none"
            )
        self.parts = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")[: 3 if config.get("use_dora") else 2]
        super().__init__(folder, config, device)
        self.scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])

    def fits(self, target: str, shape: tuple[int, ...]) -> bool:
        a, b, *magnitude = (tuple(self.targets[target][part].shape) for part in self.parts)
        return shape == (b[0], a[1]) and a[0] == b[1] and magnitude in ([], [(b[0],)])

    def fold(self, name: str) -> Fold | None:
        if name.removesuffix(".weight") not in self.targets:
            return None
        matrices = self.targets[name.removesuffix(".weight")]
        a, b, *magnitude = (matrices[part].double() for part in self.parts)
        a = on_grid(a, 0, len(a)).to(self.device)
        b = on_grid(b * self.scale, 1, len(a)).to(self.device)
        lengths = magnitude[0].to(self.device)[:, None] if magnitude else None

        def fold(rows: torch.Tensor, first: int) -> torch.Tensor:
            some = slice(first, first + len(rows))
            merged = (b[some] @ a).add_(rows)
            return merged if lengths is None else merged.mul_(lengths[some] / row_norms(merged))

        return fold


class Ia3(Adapter):
    """IA3: a factor for every output, which scales the bias too, or for every input."""

    parts = ("ia3_l",)

    def fits(self, target: str, shape: tuple[int, ...]) -> bool:
        return tuple(self.targets[target]["ia3_l"].shape) in ((shape[0], 1), (1, *shape[1:]))

    def fold(self, name: str) -> Fold | None:
        target, _, what = name.rpartition(".")
        if target not in self.targets or what not in ("weight", "bias"):
            return None
        factors = self.targets[target]["ia3_l"].double().to(self.device)
        if len(factors) == 1:
            return (lambda rows, first: rows * factors) if what == "weight" else None
        return lambda rows, first: rows * factors[first : first + len(rows)]


class Full(Adapter):
    """Full fine-tuning: every tensor of the base, trained. They may be cut into files otherwise than the base's."""

    def __init__(self, folder: Path):
        self.device = "cpu"  # there is nothing to compute
        self.folder = folder
        self.trained = tensors_in(folder)
        if not self.trained:
            raise StageError(f"{folder}: neither adapter_config.json nor *.safetensors there: train it again")

    def check_base(self, base: dict[str, Tensor]) -> None:
        if odd := sorted(base.keys() ^ self.trained.keys()):
            where = "the base alone" if odd[0] in base else "the trained weights alone"
            raise StageError(f"{self.folder}: {odd[0]} is in {where}: they must hold the same tensors")
        for name, tensor in self.trained.items():
            of_base = base[name]
            if (tensor.dtype, tensor.shape) != (of_base.dtype, of_base.shape):
                raise StageError(
                    f"{self.folder}: {name} is {tensor.dtype} {list(tensor.shape)}, the base's {of_base.dtype} "
                    f"{list(of_base.shape)}: save the trained weights in the base's type and shape"
                )
            if tensor.dtype not in TYPES:
                raise StageError(
                    f"{name}: its type {tensor.dtype} is none of {', '.join(TYPES)}: use a base that is not quantised"
                )

    def check_effect(self, changed: set[str]) -> None:
        if not changed:
            raise StageError(f"{self.folder}: every tensor is the base's own: nothing was trained")

    def fold(self, name: str) -> Fold | None:
        tensor = self.trained[name]

        def fold(rows: torch.Tensor, first: int) -> torch.Tensor:
            bytes_ = numpy.fromfile(tensor.path, numpy.uint8, rows.nbytes, offset=tensor.offset + first * tensor.row)
            return torch.from_numpy(bytes_).view(rows.dtype).view(rows.shape)

        return fold


def on_grid(matrix: torch.Tensor, dim: int, rank: int) -> torch.Tensor:
    """The float64 matrix rounded so that a product of two such, over `rank` terms, is exact and has no order of sums.

    Each row of B (dim 1) and column of A (dim 0) becomes whole multiples, of t bits at most, of a power of two. Then a
    sum of the products has 2t + log₂ rank ≤ 53 bits, which float64 holds. t is 24 up to rank 32, as in float32, and
    21 at rank 1024: far below what a 16-bit weight can tell.
    """
    bits = min(24, (53 - (rank - 1).bit_length()) // 2)
    values = matrix.numpy()
    _, exponents = numpy.frexp(numpy.abs(values).max(axis=dim, keepdims=True))
    steps = numpy.ldexp(1.0, exponents - bits)  # exact, as every operation here but rint
    return torch.from_numpy(numpy.rint(values / steps) * steps)


def row_norms(matrix: torch.Tensor) -> torch.Tensor:
    """The length of every row, [rows, 1]; the halves of a row are added until one column is left."""
    squares = matrix * matrix
    while (columns := squares.shape[1]) > 1:
        half = -(-columns // 2)
        squares[:, : columns - half] += squares[:, half:]
        squares = squares[:, :half]
    return squares.sqrt()
