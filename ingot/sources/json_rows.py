"""Rows of JSON and JSON Lines files: exact numbers, no key twice, and what is wrong by its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ingot.console import bounds
from ingot.sources.json_text import DECODER, DEEP, LENIENT, Odd, Unfit
from ingot.sources.readers import MARK, Lines, Unreadable, composed, too_long

NUMBER = frozenset("0123456789+-.eE")  # what a number is written with
NEAR = 16  # characters of the longest thing in JSON that is a fault without its end: two escapes, for one character


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
                    f"has an object in line {start} that goes on in the next, "
                    f"where {path.suffix} holds an object a line: {LINES}"
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
    """Whether an object is a table, in one of the ways of pandas' `to_json`, or has a row under each key."""
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
LINES = "`jq -c . OLD > NEW.jsonl` writes one a line"
TABLE = (
    "is one object that holds all rows, as pandas' to_json writes them: write a row a line: "
    "df.to_json('NAME.jsonl', orient='records', lines=True, force_ascii=False)"
)
ROW = '{"messages": [{"role": "user", "content": "…"}, …]}'


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
        except Unfit as error:
            if wanted is None:
                raise
            value, end = LENIENT.raw_decode(text, at)
            if _odd_in(value, {*map(composed, wanted)}):
                raise error from None
            return value, end
    except Unfit as error:
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
        return (
            f"is one object, with lists in it: say which one holds the rows, as in field: {lists[0]} "
            f"({', '.join(lists)})"
        )
    return "is one value and no list of objects: write [{…}, {…}], or one object a line"
