"""What a GGUF must be before it goes on: finite, and free of anything local to the machine that made it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ingot.console import progress
from ingot.console.progress import StageError


def open_file(path: Path):
    """A gguf.GGUFReader, which maps the file rather than loading it.

    A list is read at once: value by value, as gguf does it, a large vocabulary takes eight times as long.
    """
    import numpy
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get_field_parts(self, orig_offs, raw_type):
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            head = [self._get(orig_offs, numpy.uint32), self._get(orig_offs + 4, numpy.uint64)]
            kind, count, at = GGUFValueType(head[0][0]), int(head[1][0]), orig_offs + 12
            parts: list = []
            if kind == GGUFValueType.STRING:
                data, length = memoryview(self.data), struct.Struct("<Q")
                for _ in range(count):
                    end = at + 8 + length.unpack_from(data, at)[0]
                    parts.append(data[at + 8 : end])
                    at = end
            else:
                values = self._get(at, self.gguf_scalar_to_np[kind], count)
                parts, at = list(values.reshape(-1, 1)), at + values.nbytes
            places = range(len(head), len(head) + count)
            return at - orig_offs, head + parts, list(places), [GGUFValueType.ARRAY, *[kind] * bool(count)]

    return Reader(str(path))


def metadata(path: Path) -> dict[str, Any]:
    """Every key of a GGUF file and its value."""
    return {key: found.contents() for key, found in open_file(path).fields.items()}


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
