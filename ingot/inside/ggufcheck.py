"""What a GGUF must be before it goes on: finite, and free of anything local to the machine that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingot.inside import progress
from ingot.inside.progress import StageError


def open_file(path: Path):
    """A gguf.GGUFReader, which maps the file rather than loading it."""
    import numpy
    from gguf import GGUFReader

    class Reader(GGUFReader):
        """Over the same map as a plain array: a vocabulary is two million slices, and a numpy.memmap's cost four times as much."""

        @property
        def data(self):
            return self._plain

        @data.setter
        def data(self, mapped):
            self._plain = numpy.asarray(mapped)

    return Reader(str(path))


def field(reader, key: str, index: int | None = None) -> Any:
    """The value of a metadata key, or of one element of its list; None when the key is missing."""
    found = reader.get_field(key)
    if found is None:
        return None
    return found.contents() if index is None else found.contents(index)


def all_finite(reader) -> None:
    """Raise StageError naming the first tensor that holds NaN or infinity: bf16 values can overflow in f16."""
    import numpy
    from gguf import GGMLQuantizationType as Kind

    with progress.bar("checking") as bar:
        for tensor in bar.track(reader.tensors, description="checking"):
            data = tensor.data
            if tensor.tensor_type == Kind.BF16:
                # The exponent, all ones in NaN and infinity.
                finite = ((data.view(numpy.uint16) & 0x7F80) != 0x7F80).all()
            else:
                finite = numpy.isfinite(data).all()
            if not finite:
                raise StageError(
                    f"{tensor.name}: holds NaN or infinity. If the base is bf16, its values may not fit f16: "
                    "set f16.type to bf16; else training has diverged"
                )


def nothing_local(reader, paths: list[str]) -> None:
    """Raise StageError when a metadata text contains one of `paths`: the file would differ on every machine."""
    for key in reader.fields:
        value = field(reader, key)
        if isinstance(value, str) and any(path in value for path in paths if len(path) > 1):
            raise StageError(f"the GGUF's {key} holds a path of this machine: {value}")


def fallbacks(path: Path, kind: str) -> int:
    """How many tensors of a file quantised to `kind` are of another type, their rows being no multiple of its block."""
    block = {"F16": 1, "BF16": 1, "Q8_0": 32, "IQ4_NL": 32}.get(kind, 256)
    return sum(len(tensor.shape) > 1 and int(tensor.shape[0]) % block > 0 for tensor in open_file(path).tensors)
