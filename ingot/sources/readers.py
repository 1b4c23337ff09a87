"""The rows in a file, as they are: CSV and JSON by Python's readers, packed or not; every fault with place and fix."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from ingot.console import bounds
from ingot.console.progress import StageError

KINDS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
PIECE = 1 << 20  # bytes that are read at once
MARK = "\ufeff"  # of byte order: where two files were joined it stands in the middle
# Kinds of files that people bring and that hold no conversations, and what to do with each.
OTHERS = {
    ".txt": (
        "it holds text without questions and answers, and a chat is what is trained: write .jsonl, an exchange a line"
    ),
    ".md": "a document is no conversation: write .jsonl, an exchange a line",
    ".pdf": "a document is no conversation: write .jsonl, an exchange a line",
    ".docx": "a document is no conversation: write .jsonl, an exchange a line",
    ".xlsx": "save the sheet as CSV UTF-8",
    ".xls": "save the sheet as CSV UTF-8",
    ".arrow": "save it as Parquet: datasets.Dataset.from_file(NAME).to_parquet(OTHER)",
}
# Files about a dataset, also as .md and .txt.
ABOUT = ("README", "LICENSE", "LICENCE", "CITATION", "CHANGELOG")
READ = f"{', '.join(KINDS)}, and these packed as {', '.join(PACKED)}"

SEPARATED = re.compile(r'"?sep=([^\w\s"]|\t)"?(?=[\r\n])')


class Unreadable(Exception):
    """What is wrong with a file, its name left out."""


def kind_of(files: list[str], name: str) -> str:
    """`parquet`, `json` or `csv`: the one kind of all the files. Raises StageError where they are of several."""
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
    if known := next((suffix for suffix in found if suffix in OTHERS), ""):
        raise StageError(f"raw.datasets.{name}: {found[known]}: {known} is not read: {OTHERS[known]}")
    listed = ", ".join(f"{suffix or 'without a suffix'} ({file})" for suffix, file in sorted(found.items()))
    raise StageError(
        f"raw.datasets.{name}: files of one kind are read, out of {READ}; found {listed or 'none'}. "
        'Name those that are meant: files: ["*.jsonl"]'
    )


def with_rows(files: list[str]) -> list[str]:
    """The names but those of files about a dataset; all of them where it has no others."""
    names = [(file, PurePosixPath(file).name.upper()) for file in files]
    return [file for file, name in names if name.removesuffix(".MD").removesuffix(".TXT") not in ABOUT] or files


def hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts if part not in (".", ".."))


def composed(text: str) -> str:
    """The text as most keyboards write it: a Mac's file names take Hangul and accents apart, and look the same."""
    return unicodedata.normalize("NFC", text)


class Lines:
    """The lines of a binary stream as text, counted, ended by line feeds, without marks of byte order at their starts.

    Where there are none the carriage returns of old Macs end them. It is read in pieces, for a file may be one line.
    """

    def __init__(self, stream: BinaryIO, encoding: str):
        self.stream, self.encoding = stream, encoding.lower().replace("utf8", "utf-8")
        self.number = 0  # of the line that was last given
        self.ended = 0  # lines in what is read
        self.ahead = ""  # what `opening` has read
        self.last = ""  # the line that was last given
        self.marked = 0  # the last line that began with a mark of byte order
        self.returns = False  # end its lines
        self.longest = bounds.ROW_CHARACTERS  # of a line
        try:
            io.TextIOWrapper(io.BytesIO(), self.encoding)  # refuses Python's codecs that give no text
            codec = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
            self.decoder = codecs.getincrementaldecoder(codec)()
        except (LookupError, ValueError) as error:
            raise Unreadable(f"cannot be read as {encoding}, which its README names: {error}") from None

    def opening(self) -> str:
        """The first character that is no blank; "" where there is none. It stays to be read."""
        while not self.ahead.strip() and (more := self._more(0)):
            self.ahead += more
        if "\0" in self.ahead[:2] and len(self.ahead) > 2:
            raise Unreadable(
                "holds a NUL in its first two characters, as UTF-16 has: convert it: iconv -f UTF-16LE -t UTF-8"
            )
        if "\r" in self.ahead[:-1] and "\n" not in self.ahead:
            self.returns, self.ahead = True, self.ahead.replace("\r", "\n")
        return self.ahead.lstrip()[:1]

    def read(self, least: int = 0) -> str:
        """The next piece, of so many bytes if there are; "" at the end."""
        text, self.ahead = self.ahead, ""
        return text or self._more(least)

    def _more(self, least: int) -> str:
        text, data = "", b"x"
        while data and not text:
            data = self.stream.read(max(PIECE, least))
            try:
                text = self.decoder.decode(data, final=not data)
            except UnicodeError as error:
                raise Unreadable(self._no_text(error)) from None
            if self.returns:
                text = text.replace("\r", "\n")
            self.ended += text.count("\n")
        return text

    def __iter__(self) -> Iterator[str]:
        parts: list[str] = []
        held = 0
        while piece := self.read():
            first, *more = piece.split("\n")
            parts.append(first)
            if (held := held + len(first)) > self.longest:
                raise too_long(f"line {self.number + 1}", self.longest)
            for text in more:
                yield self._line("".join(parts) + "\n")
                parts, held = [text], len(text)
        if last := "".join(parts):
            yield self._line(last)

    def _line(self, text: str) -> str:
        self.number += 1
        if text[0] == MARK:
            self.marked, text = self.number, text.lstrip(MARK)
        self.last = text
        return text

    def _no_text(self, error: UnicodeError) -> str:
        if self.encoding != "utf-8" or not isinstance(error, UnicodeDecodeError):  # as a README says
            return f"cannot be read as {self.encoding}, which its README names: {error}"
        line = self.ended + error.object.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if error.object.startswith((b"\xff\xfe", b"\xfe\xff")) else "CP949"
        return (
            f"is not UTF-8: line {line} holds the byte 0x{error.object[error.start]:02x}. Convert it: "
            f"iconv -f {guess} -t UTF-8 (CP949: Korean Windows; CP1252: Western; UTF-16: saved as Unicode)"
        )


def too_long(place: str, longest: int) -> Unreadable:
    advice = "a quote that is never closed, or another file by a wrong name?"
    if longest == bounds.WHOLE_CHARACTERS:
        advice = "save the rows as .jsonl, an object a line"
    return Unreadable(f"has more than {longest // bounds.MB} MB in {place}, which is not read: {advice}")


def _rows_of(lines: Lines, begun: list[int]) -> Iterator[str]:
    """The lines; of one row, which begins in line `begun[0]` with begun[1] = 0, no more than a row may have."""
    for line in lines:
        begun[1] += len(line)
        if begun[1] > bounds.ROW_CHARACTERS:
            raise too_long(f"the row that begins in line {begun[0]}", bounds.ROW_CHARACTERS)
        yield line


def csv_rows(lines: Lines, path: PurePosixPath, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # a row is bounded as a whole
    begun = [1, 0]
    told = options.get("sep") or options.get("delimiter")
    lines.opening()  # what ends its lines
    if found := SEPARATED.match(lines.ahead):  # by which Excel separates: the line counts, and is left empty
        told, lines.ahead = found[1], lines.ahead[found.end() :]
    mark = told or ("\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        reader = csv.reader(
            _rows_of(lines, begun), delimiter=mark, quotechar=options.get("quotechar") or '"', strict=True
        )
    except TypeError as error:
        raise Unreadable(f"cannot be read: {error}") from None
    try:
        named = options.get("names") or options.get("column_names")
        first = list(named or next(filter(any, reader), []))
        header = _header(first, mark, bool(told))
        begun[:] = reader.line_num + 1, 0
        for values in reader:
            begun[:] = reader.line_num + 1, 0
            if not any(map(str.strip, values)):
                continue  # an empty line, as the last one often is, or one of empty cells, as spreadsheets leave them
            if len(values) != len(first):
                raise Unreadable(
                    f"has {len(values)} fields in line {reader.line_num} but {len(first)} columns "
                    f"({', '.join(first)[:100]}): a field that holds the separator or a line's end is to be quoted"
                )
            if values == first and not named:
                if lines.marked == lines.number:
                    continue  # another file begins
                raise Unreadable(
                    f"has its first line again in line {reader.line_num}, as where two files were joined: remove it"
                )
            if lost := next((value for value in values[len(header) :] if value.strip()), ""):
                raise Unreadable(
                    f"has {lost[:40]!r} in line {reader.line_num}, in a column without a name: "
                    "name it in the first line"
                )
            for value in values:
                # The blank makes the quotes a part of the text; a field that is meant so is quoted as a whole.
                if value[:1] == " " and _quoted(value) and (mark + value in lines.last or lines.last.startswith(value)):
                    raise Unreadable(
                        f"has a blank before the quoted field {value[:40]!r} in line {reader.line_num}: the quotes "
                        f"would be read as text: write {mark!r} without a blank"
                    )
            yield dict(zip(header, values, strict=False))
    except csv.Error as error:
        if "new-line character" in str(error):
            raise Unreadable(
                f"has a carriage return (CR) outside of quotes in line {reader.line_num}: some of its lines end with "
                "it alone: save it with line feeds (LF), or with CR and LF"
            ) from None
        why = f"{error}; a quote within a field is written twice"
        if not told and (other := next((m for m in ",;\t|" if m != mark and f'"{m}' in lines.last), None)):
            why = f"it is not separated by {mark!r}, it seems, but by {other!r}: save it with commas"
        raise Unreadable(f"is broken in line {reader.line_num}: {why}") from None


def _header(first: list[str], mark: str, told: bool) -> list[str]:
    """The names of the columns. Spreadsheets leave empty columns at the end, which are none. Raises Unreadable."""
    header = list(first)
    if sum(not column.strip() for column in header) > 1:
        while header and not header[-1].strip():
            header.pop()
    if len(header) > bounds.COLUMNS:
        raise Unreadable(too_many(len(header)))
    if twice := {column for column, times in Counter(header).items() if times > 1}:
        name = min(twice)
        raise Unreadable(
            f"names the column {name!r} twice in its first line"
            if name.strip()
            else f"has {header.count(name)} columns without a name in its first line: name them, or remove them"
        )
    if (
        not told
        and len(header) == 1
        and (other := next((m for m in ",;\t|" if m != mark and _columns(header[0], m)), None))
    ):
        raise Unreadable(
            f"has one column, {header[0]!r}: it is not separated by {mark!r} but by {other!r}: "
            + {"\t": "name it .tsv", ",": "name it .csv"}.get(other, "save it with commas")
        )
    return header


def _quoted(value: str) -> bool:
    value = value.strip()
    return len(value) > 1 and value[0] == value[-1] == '"'


def too_many(columns: int) -> str:
    return (
        f"has {columns:,} columns or more, where {bounds.COLUMNS:,} at most are read: are they rows? Write a row as "
        "an object with the same few keys each time"
    )


def _columns(header: str, mark: str) -> bool:
    """Whether a first line is several columns' names, with another mark between them."""
    names = header.split(mark)
    return len(names) > 1 and all(name and name == name.strip() for name in names)
