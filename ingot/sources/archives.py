"""Packed files: unpacked as a stream, in bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ingot.console import bounds
from ingot.sources.readers import PACKED, Unreadable, hidden, kind_of


def unpacked(file: str) -> str:
    path = PurePosixPath(file)
    return path.stem if path.suffix.lower() in PACKED else path.name


def members(path: Path) -> Iterator[tuple[str | None, BinaryIO | None]]:
    """The streams in a packed file, by name (None: there is but one); (None, None) for a file that is not packed.

    A zip's members are read where they are: no name in it becomes a path.
    """
    kind, packed_size = path.suffix.lower(), path.stat().st_size
    left = [max(bounds.UNPACKED_TIMES * packed_size, bounds.UNPACKED_BYTES)]
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            inside = [i for i in archive.infolist() if PurePosixPath(i.filename).name and not i.is_dir()]
            inside = [i for i in inside if not hidden(PurePosixPath(i.filename))]
            inside = [i for i in inside if PurePosixPath(i.filename).parts[0] != "__MACOSX"]
            if len(inside) > bounds.PACKED_FILES:
                raise Unreadable(
                    f"holds {len(inside):,} files, where {bounds.PACKED_FILES:,} at most are read: unpack it"
                )
            if sum(i.file_size for i in inside) > left[0]:
                raise bomb(packed_size)
            kind_of([i.filename for i in inside], path.parent.name)
            for info in sorted(inside, key=lambda info: info.filename):
                within = PurePosixPath(info.filename).suffix.lower()
                if within == ".zip":
                    raise Unreadable(f"holds {info.filename}, a zip within a zip: unpack the outer one")
                with archive.open(info) as packed, _unpacked(packed, within) as stream:
                    yield info.filename, _Measured(stream, left, packed_size)
    elif kind in PACKED:
        with path.open("rb") as packed, _unpacked(packed, kind) as stream:
            yield None, _Measured(stream, left, packed_size)
    else:
        yield None, None


class _Measured(io.RawIOBase):
    """What is unpacked of a file of `packed` bytes, which may be left[0] bytes, those of its other members included."""

    def __init__(self, stream: BinaryIO, left: list[int], packed: int):
        self.stream, self.left, self.packed = stream, left, packed

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.left[0] -= len(data)
        if self.left[0] < 0:
            raise bomb(self.packed)
        return data

    def close(self) -> None:
        self.stream.close()
        super().close()


def bomb(packed: int) -> Unreadable:
    times, least = bounds.UNPACKED_TIMES, bounds.UNPACKED_BYTES // bounds.MB
    return Unreadable(
        f"has {packed / bounds.MB:.1f} MB and unpacks to more than {times} times that and {least} MB, which is not "
        "read: unpack it yourself if you trust it"
    )


@contextmanager
def _unpacked(packed: BinaryIO, kind: str) -> Iterator[BinaryIO]:
    """What a stream holds that is packed so, or the stream itself."""
    if kind == ".zst":  # by Arrow, which brings the library; Python has it from 3.14 on
        import pyarrow

        with pyarrow.PythonFile(packed, "r") as file, pyarrow.CompressedInputStream(file, "zstd") as stream:
            yield io.BufferedReader(stream, 1 << 20)
    elif kind in PACKED:
        with {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[kind](packed, "rb") as stream:
            yield stream
    else:
        yield packed
