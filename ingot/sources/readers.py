"""The rows in one file, as they are: CSV and JSON by Python's own readers, packed or not; every fault with its place and fix."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import re
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
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
    ".txt": "it holds text without questions and answers, and a chat is what is trained: write .jsonl, an exchange a line",
    ".md": "a document is no conversation: write .jsonl, an exchange a line",
    ".pdf": "a document is no conversation: write .jsonl, an exchange a line",
    ".docx": "a document is no conversation: write .jsonl, an exchange a line",
    ".xlsx": "save the sheet as CSV UTF-8",
    ".xls": "save the sheet as CSV UTF-8",
    ".arrow": "save it as Parquet: datasets.Dataset.from_file(NAME).to_parquet(OTHER)",
}
NUMBER = frozenset("0123456789+-.eE")  # what a number is written with
NEAR = 16  # characters of the longest thing in JSON that is a fault without its end: two escapes, for one character
READ = f"{', '.join(KINDS)}, and these packed as {', '.join(PACKED)}"


SEPARATED = re.compile(r'"?sep=([^\w\s"]|\t)"?(?=[\r\n])')


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
    if known := next((suffix for suffix in found if suffix in OTHERS), ""):
        raise StageError(f"raw.datasets.{name}: {found[known]}: {known} is not read: {OTHERS[known]}")
    listed = ", ".join(f"{suffix or 'without a suffix'} ({file})" for suffix, file in sorted(found.items()))
    raise StageError(
        f"raw.datasets.{name}: files of one kind are read, out of {READ}; found {listed or 'none'}. "
        'Name those that are meant: files: ["*.jsonl"]'
    )


def hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts if part not in (".", ".."))


def composed(text: str) -> str:
    """The text as most keyboards write it: a Mac's file names take Hangul and accents apart, and look the same."""
    return unicodedata.normalize("NFC", text)


class Lines:
    """The lines of a binary stream as text, counted, ended by line feeds; a mark of byte order at a line's start is none of it.

    Where there are none the carriage returns of old Macs end them. It is read in pieces, for a file may well be one line.
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
                    f"has {len(values)} fields in line {reader.line_num} but {len(first)} columns ({', '.join(first)[:100]}): "
                    "a field that holds the separator or a line's end is to be quoted"
                )
            if values == first and not named:
                if lines.marked == lines.number:
                    continue  # another file begins
                raise Unreadable(
                    f"has its first line again in line {reader.line_num}, as where two files were joined: remove it"
                )
            if lost := next((value for value in values[len(header) :] if value.strip()), ""):
                raise Unreadable(
                    f"has {lost[:40]!r} in line {reader.line_num}, in a column without a name: name it in the first line"
                )
            for value in values:
                # The blank makes the quotes a part of the text; a field that is meant so is quoted as a whole.
                if value[:1] == " " and _quoted(value) and (mark + value in lines.last or lines.last.startswith(value)):
                    raise Unreadable(
                        f"has a blank before the quoted field {value[:40]!r} in line {reader.line_num}: the quotes would be "
                        f"read as text: write {mark!r} without a blank"
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
        f"has {columns:,} columns or more, where {bounds.COLUMNS:,} at most are read: are they rows? Write a row as an object "
        "with the same few keys each time"
    )


def _columns(header: str, mark: str) -> bool:
    """Whether a first line is several columns' names, with another mark between them."""
    names = header.split(mark)
    return len(names) > 1 and all(name and name == name.strip() for name in names)


def json_rows(lines: Lines, path: PurePosixPath, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An object a line, or one array of objects, or (with `field`) one object that has that array.

    With the columns that are `wanted` an object that has them all is a row, though it be the only one of its file; and
    a number that no column holds is a fault in those alone, in others it is read as text.
    """
    field, opening, wanted = options.get("field"), lines.opening(), options.get("wanted")
    if not opening:
        raise Unreadable("holds nothing but blanks")
    if field is None and opening == "[":
        for number, row in enumerate(_items(lines, wanted), 1):
            yield _row(row, f"row {number}")
        return
    if field is not None or path.suffix.lower() == ".json":  # it may be one object, on one line
        lines.longest = bounds.WHOLE_CHARACTERS
    iterator = iter(lines)
    first = next(line for line in iterator if line.strip())
    start, single = lines.number, path.suffix.lower() == ".json"
    if field is None and (opening == "{" or not single):
        try:
            row = _parse(first, f"line {start}", wanted)
        except json.JSONDecodeError as error:
            # One object over several lines? Or a broken line.
            if not single and opening == "{" and error.pos >= len(first.rstrip()) and _goes_on(first, iterator):
                raise Unreadable(
                    f"has an object in line {start} that goes on in the next, where {path.suffix} holds an object a line: {LINES}"
                ) from None
            if not single or (first.strip() != "{" and error.pos < len(first.rstrip())):
                raise _broken(error, start) from None
        else:
            rest = next((line for line in iterator if line.strip()), None)
            if rest is None and _is_table(row, wanted):
                raise Unreadable(TABLE)
            if rest is None and _lists(row) and single and not _is_row(row, wanted):
                raise Unreadable(_one_object(row))
            yield _row(row, f"line {start}")
            while rest is not None:
                if rest.strip():
                    place = f"line {lines.number}"
                    try:
                        yield _row(_parse(rest, place, wanted), place)
                    except json.JSONDecodeError as error:
                        raise _broken(error, lines.number) from None
                rest = next(iterator, None)
            return
    parts, held = [first], len(first)
    for line in iterator:
        parts.append(line)
        if (held := held + len(line)) > bounds.WHOLE_CHARACTERS:
            raise too_long("one object", bounds.WHOLE_CHARACTERS)
    text = "".join(parts)
    try:
        whole = _parse(text, "one of its values", wanted)
    except json.JSONDecodeError as error:
        raise _broken(error, start - 1 + error.lineno) from None
    if field is None and _is_table(whole, wanted):
        raise Unreadable(TABLE)
    if field is None and _is_row(whole, wanted):
        yield whole
        return
    if not isinstance(whole, dict) or field is None or not isinstance(whole.get(field), list):
        raise Unreadable(
            _one_object(whole)
            if field is None
            else f"has no list {field!r}, which raw.datasets.….field names; it has {', '.join(_lists(whole)) or 'none'}"
        )
    for number, row in enumerate(whole[field], 1):
        yield _row(row, f"{field}[{number - 1}]")


def _goes_on(first: str, lines: Iterator[str]) -> bool:
    """Whether the next line that shows goes on with an object: with a key, or its end."""
    following = next((line.strip() for line in lines if line.strip()), "")
    return first.strip() == "{" or following[:1] in ('"', "}", "]")


def _is_table(value: Any, wanted: list[str] | None) -> bool:
    """Whether an object is a whole table, as pandas' `to_json` writes it in its several ways, or has a row under each key."""
    if not isinstance(value, dict) or not value:
        return False
    if {"columns", "data"} <= {*value}:
        return all(isinstance(item, list) for item in value.values())
    kinds, several = {*map(type, value.values())}, [*value.values()]
    if kinds == {dict}:  # of columns that are objects by the rows' numbers, or of rows by numbers
        keys = {*map(tuple, several)}
        numbered = len(keys) == 1 and any(names and all(map(str.isdigit, names)) for names in (*keys, value))
        return numbered or all(_is_row(item, wanted) for item in several)
    return (
        kinds == {list} and len({*map(len, several)}) == 1
        and all(column and not isinstance(column[0], dict) for column in several)
    )  # fmt: skip


def _is_row(value: Any, wanted: list[str] | None) -> bool:
    """Whether an object is a row by itself: it has every column that is mapped."""
    return bool(wanted) and isinstance(value, dict) and {*map(composed, wanted)} <= {*map(composed, value)}


def _items(lines: Lines, wanted: list[str] | None = None) -> Iterator[Any]:
    """The items of one JSON array, of which no more is in memory than one item and a piece of the text around it."""
    text, at, number = "", 0, 0
    line, column = 1, 0  # where `text` begins in the file
    blank = json.decoder.WHITESPACE.match

    def on() -> bool:
        """Let go what is read, and go on: by as much as is left, so that a long item is not begun too often."""
        nonlocal text, at, line, column
        line, column = (
            line + text.count("\n", 0, at),
            (column if (last := text.rfind("\n", 0, at)) < 0 else -1 - last) + at,
        )
        more = lines.read(len(text) - at)
        text, at, grown = text[at:] + more, 0, bool(more)
        while more and text[-1] in NUMBER:  # which may be a part of one
            more = lines.read()
            text += more
            if len(text) > 2 * bounds.ROW_CHARACTERS:
                raise too_long(f"row {number or 1}", bounds.ROW_CHARACTERS)
        return grown

    def sign() -> str:
        """The next character that is no blank, which `at` then is at; "" at the end."""
        nonlocal at
        while (at := blank(text, at).end()) == len(text) and on():
            pass
        return text[at : at + 1]

    def broken(why: str, position: int) -> Unreadable:
        before = text.rfind("\n", 0, position)
        place = position - before if before >= 0 else column + position + 1
        if text[position : position + 1] == MARK:
            why = JOINED
        elif why == "Extra data" and text[position : position + 1] == "[":
            why = f"Extra data: another list begins, where one holds all rows; a row by itself is an object: {ROW}"
        return Unreadable(f"is broken in line {line + text.count(chr(10), 0, position)}: {why} (column {place})")

    if sign() != "[":
        raise broken("Expecting value", at)
    at += 1
    if sign() != "]":
        while True:
            number += 1
            sign()
            while True:
                try:
                    item, at = _decode(text, at, f"row {number}", wanted)
                    break
                except json.JSONDecodeError as error:
                    # A fault that is at the end of what is read, or a text without one, may be no fault.
                    near = error.pos > len(text) - NEAR or error.msg.startswith("Unterminated string")
                    ahead = error.pos - at
                    if len(text) - at > bounds.ROW_CHARACTERS:
                        raise too_long(f"row {number}", bounds.ROW_CHARACTERS) from None
                    if not (near and on()):
                        raise broken(error.msg, at + ahead) from None
            yield item
            if (mark := sign()) == "]":
                break
            if mark != ",":
                raise broken("Expecting ',' delimiter", at)
            at += 1
    at += 1
    if sign():
        raise broken("Extra data", at)


def _broken(error: json.JSONDecodeError, line: int) -> Unreadable:
    there = error.doc[error.pos : error.pos + 1]
    why = JOINED if there == MARK else error.msg
    if error.msg == "Extra data" and there == "{":
        why = f"Extra data: another object begins: {LINES}"
    elif there == "'":
        why += ": text in JSON is in double quotes: write it with json.dumps, not with str"
    return Unreadable(f"is broken in line {line}: {why} (column {error.colno})")


JOINED = "a mark of byte order (U+FEFF) within the line, as where two files were joined: begin a new line there"
DEEP = "more lists and objects within each other than can be read (some 900): remove the row, or that key of it"
LINES = "`jq -c . OLD > NEW.jsonl` writes one a line"
TABLE = (
    "is one object that holds all rows, as pandas' to_json writes them: write a row a line: "
    "df.to_json('NAME.jsonl', orient='records', lines=True, force_ascii=False)"
)
ROW = '{"messages": [{"role": "user", "content": "…"}, …]}'


class _Unfit(Exception):
    """What Python's json takes, and no column holds."""


class Odd(str):
    """A number that no column holds, as it is written."""


def _integer(digits: str) -> int:
    if len(digits) > 20 or (len(digits) > 18 and not -(2**63) <= int(digits) < 2**64):
        raise _Unfit(f"the number {digits[:40]}, which is more than 64 bits: quote it, as text")
    return int(digits)


def _float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise _Unfit(f"the number {digits[:40]}, which is more than a float holds: quote it, as text")
    return value


def _constant(word: str) -> None:
    raise _Unfit(f"{word}, which JSON has not: write null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys: set[str] = set()
        twice = next(key for key, _ in pairs if key in keys or keys.add(key))
        raise _Unfit(f"the key {twice[:40]!r} twice in one object: remove one, for only one of them would be read")
    return made


def _odd(number: Any) -> Any:
    """What reads a number, or keeps it as Odd."""

    def read(digits: str) -> Any:
        try:
            return number(digits)
        except _Unfit:
            return Odd(digits)

    return read


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
LENIENT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_odd(_integer), parse_float=_odd(_float), parse_constant=Odd
)


def parsed(text: str) -> Any:
    """JSON text that stands in a column. Raises ValueError, also for a key that is there twice."""
    try:
        value, end = json.JSONDecoder(object_pairs_hook=_object).raw_decode(text.strip())
    except _Unfit as error:
        raise ValueError(str(error)) from None
    if end != len(text.strip()):
        raise ValueError("more than one value")
    return value


def _parse(text: str, place: str, wanted: list[str] | None) -> Any:
    value, end = _decode(text, json.decoder.WHITESPACE.match(text).end(), place, wanted)
    end = json.decoder.WHITESPACE.match(text, end).end()
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _decode(text: str, at: int, place: str, wanted: list[str] | None) -> tuple[Any, int]:
    try:
        try:
            return DECODER.raw_decode(text, at)
        except _Unfit as error:
            if wanted is None:
                raise
            value, end = LENIENT.raw_decode(text, at)
            if _odd_in(value, {*map(composed, wanted)}):
                raise error from None
            return value, end
    except _Unfit as error:
        raise Unreadable(f"holds in {place} {error}") from None
    except RecursionError:
        raise Unreadable(f"holds in {place} {DEEP}") from None


def _odd_in(value: Any, wanted: set[str] | None) -> bool:
    """Whether there is an odd number in it, in the `wanted` columns of an object or of those in its lists."""
    if isinstance(value, dict):
        return any(
            _odd_in(item, None if wanted is None or composed(key) in wanted else wanted) for key, item in value.items()
        )
    if isinstance(value, list):
        return any(_odd_in(item, wanted) for item in value)
    return wanted is None and isinstance(value, Odd)


def _row(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        like = f", such as {ROW}" if isinstance(value, list) and value and isinstance(value[0], dict) else ""
        raise Unreadable(f"has {_some_json(value)} in {place}, where a row is an object: {{…}}{like}")
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
    lists = _lists(value)
    if turns := next((key for key in lists if value[key][0].keys() & {"role", "from"}), None):
        return (
            f"is one conversation, whose turns are in {turns!r}: name that column in the mapping "
            f"({'columns: openai, or ' if turns == 'messages' else ''}turns: {turns}), and the object is a row"
        )
    if lists:
        return f"is one object, with lists in it: say which one holds the rows, as in field: {lists[0]} ({', '.join(lists)})"
    return "is one value and no list of objects: write [{…}, {…}], or one object a line"


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
        f"has {packed / bounds.MB:.1f} MB and unpacks to more than {times} times that and {least} MB, which is not read: "
        "unpack it yourself if you trust it"
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
