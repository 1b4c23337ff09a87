"""The rows in one file, as they are: CSV and JSON by Python's own readers, packed or not; every fault with its place and fix."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ingot.inside.progress import StageError

KINDS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
READ = f"{', '.join(KINDS)}, and these packed as {', '.join(PACKED)}"


class Unreadable(Exception):
    """What is wrong with a file, its name left out."""


def kind_of(files: list[str], name: str) -> str:
    """`parquet`, `json` or `csv`: the one kind that all the files are of. Raises StageError where they are of several."""
    found: dict[str, str] = {}
    for file in files:
        suffixes = [suffix.lower() for suffix in PurePosixPath(file).suffixes]
        packed = bool(suffixes) and suffixes[-1] in PACKED
        suffix = suffixes[-2] if packed and len(suffixes) > 1 else "" if packed else suffixes[-1] if suffixes else ""
        if packed and suffix not in KINDS and suffixes[-1] == ".zip":
            suffix = "a .zip that does not say (NAME.jsonl.zip does)"
        found.setdefault(suffix, file)
    kinds = {KINDS.get(suffix, "") for suffix in found}
    if len(kinds) == 1 and "" not in kinds:
        return kinds.pop()
    listed = ", ".join(f"{suffix or 'without a suffix'} ({file})" for suffix, file in sorted(found.items()))
    raise StageError(
        f"raw.datasets.{name}: files of one kind are read, out of {READ}; found {listed or 'none'}. "
        'Name those that are meant: files: ["*.jsonl"]'
    )


def hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts if part not in (".", ".."))


class Lines:
    """The lines of a binary stream as text, counted, ended by line feeds alone; a mark of byte order at the start is none of it."""

    def __init__(self, stream: BinaryIO, encoding: str):
        self.stream, self.encoding, self.number = stream, "utf-8" if encoding.lower() == "utf8" else encoding, 0

    def __iter__(self) -> Iterator[str]:
        if self.encoding.lower() != "utf-8":  # as a README says
            try:
                yield from io.TextIOWrapper(self.stream, self.encoding, newline="\n")
            except (UnicodeDecodeError, LookupError) as error:
                raise Unreadable(f"cannot be read as {self.encoding}, which its README names: {error}") from None
            return
        for line in self.stream:
            self.number += 1
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                guess = "UTF-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else "CP949"
                raise Unreadable(
                    f"is not UTF-8: line {self.number} holds the byte 0x{line[error.start]:02x}. Convert it: "
                    f"iconv -f {guess} -t UTF-8 (CP949: Korean Windows; CP1252: Western; UTF-16: saved as Unicode)"
                ) from None
            yield text.removeprefix("\ufeff") if self.number == 1 else text


def csv_rows(lines: Lines, path: PurePosixPath, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # one field may be a book
    mark = options.get("sep") or options.get("delimiter") or ("\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        reader = csv.reader(lines, delimiter=mark, quotechar=options.get("quotechar") or '"', strict=True)
    except TypeError as error:
        raise Unreadable(f"cannot be read: {error}") from None
    try:
        header = list(options.get("names") or options.get("column_names") or next(reader, []))
        if twice := {column for column in header if header.count(column) > 1}:
            raise Unreadable(f"names the column {min(twice)!r} twice in its first line")
        for values in reader:
            if not values:
                continue  # an empty line, as the last one often is
            if len(values) != len(header):
                raise Unreadable(
                    f"has {len(values)} fields in line {reader.line_num} but {len(header)} columns ({', '.join(header)[:100]}): "
                    "a field that holds the separator or a line's end is to be quoted"
                )
            yield dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise Unreadable(
            f"is broken in line {reader.line_num}: {error}; a quote within a field is written twice"
        ) from None


def json_rows(lines: Lines, path: PurePosixPath, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An object a line, or one array of objects, or (with `field`) one object that has that array."""
    field, iterator = options.get("field"), iter(lines)
    first = next((line for line in iterator if line.strip()), "")
    start = lines.number
    if first.lstrip().startswith("{") and field is None:
        try:
            row = _parse(first)
        except json.JSONDecodeError as error:
            # One object over several lines? Or a broken line.
            if path.suffix.lower() != ".json" or (first.strip() != "{" and error.pos < len(first.rstrip())):
                raise Unreadable(f"is broken in line {start}: {error.msg} (column {error.colno})") from None
        else:
            rest = next((line for line in iterator if line.strip()), None)
            if rest is None and _lists(row) and path.suffix.lower() == ".json":
                raise Unreadable(_one_object(row))
            yield _row(row, f"line {start}")
            while rest is not None:
                if rest.strip():
                    try:
                        yield _row(_parse(rest), f"line {lines.number}")
                    except json.JSONDecodeError as error:
                        raise Unreadable(
                            f"is broken in line {lines.number}: {error.msg} (column {error.colno})"
                        ) from None
                rest = next(iterator, None)
            return
    text = first + "".join(iterator)
    try:
        if field is None and text.lstrip().startswith("["):
            for number, row in enumerate(_items(text), 1):
                yield _row(row, f"row {number}")
            return
        whole = _parse(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is broken in line {start - 1 + error.lineno}: {error.msg} (column {error.colno})") from None
    if not isinstance(whole, dict) or field is None or not isinstance(whole.get(field), list):
        raise Unreadable(
            _one_object(whole)
            if field is None
            else f"has no list {field!r}, which raw.datasets.….field names; it has {', '.join(_lists(whole)) or 'none'}"
        )
    for number, row in enumerate(whole[field], 1):
        yield _row(row, f"{field}[{number - 1}]")


def _items(text: str) -> Iterator[Any]:
    """The items of one JSON array, one after the other: as objects all at once they would take many times the file's size."""
    at = json.decoder.WHITESPACE.match(text, text.index("[") + 1).end()
    if text[at : at + 1] == "]":
        return
    while True:
        item, at = DECODER.raw_decode(text, at)
        yield item
        at = json.decoder.WHITESPACE.match(text, at).end()
        if (mark := text[at : at + 1]) not in (",", "]"):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = json.decoder.WHITESPACE.match(text, at + 1).end()
        if mark == "]":
            if at != len(text):
                raise json.JSONDecodeError("Extra data", text, at)
            return


def _integer(digits: str) -> int:
    if len(digits) > 20 or (len(digits) > 18 and not -(2**63) <= int(digits) < 2**63):
        raise Unreadable(f"holds the number {digits[:40]}, which is more than 64 bits: quote it, as text")
    return int(digits)


def _constant(word: str) -> None:
    raise Unreadable(f"holds {word}, which JSON has not: write null")


DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)


def _parse(text: str) -> Any:
    return DECODER.decode(text)


def _row(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(f"has {_some_json(value)} in {place}, where a row is an object: {{…}}")
    return value


def _some_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) < 40 else text[:40] + "…"


def _lists(value: Any) -> list[str]:
    """The keys of an object that hold lists of objects, which may be meant for the rows."""
    if not isinstance(value, dict):
        return []
    return [key for key, items in value.items() if isinstance(items, list) and items and isinstance(items[0], dict)]


def _one_object(value: Any) -> str:
    if lists := _lists(value):
        return f"is one object, with lists in it: say which one holds the rows, as in field: {lists[0]} ({', '.join(lists)})"
    return "is one value and no list of objects: write [{…}, {…}], or one object a line"


def unpacked(file: str) -> str:
    path = PurePosixPath(file)
    return path.stem if path.suffix.lower() in PACKED else path.name


def members(path: Path) -> Iterator[tuple[str | None, BinaryIO | None]]:
    """The streams in a packed file, by name (None: there is but one); (None, None) for a file that is not packed.

    A zip's members are read where they are: no name in it becomes a path.
    """
    kind = path.suffix.lower()
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            inside = [i for i in archive.infolist() if not i.is_dir() and not hidden(PurePosixPath(i.filename))]
            inside = [i for i in inside if PurePosixPath(i.filename).parts[0] != "__MACOSX"]
            kind_of([i.filename for i in inside], path.parent.name)
            for info in sorted(inside, key=lambda info: info.filename):
                within = PurePosixPath(info.filename).suffix.lower()
                if within == ".zip":
                    raise Unreadable(f"holds {info.filename}, a zip within a zip: unpack the outer one")
                with archive.open(info) as packed, _unpacked(packed, within) as stream:
                    yield info.filename, stream
    elif kind in PACKED:
        with path.open("rb") as packed, _unpacked(packed, kind) as stream:
            yield None, stream
    else:
        yield None, None


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
