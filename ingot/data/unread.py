"""What a mapping does not read, of columns and turns: what changes a row's meaning, and a list of all with a sample.

A name says what to look for, the values decide: a `history` is earlier turns where it holds a list, and not as "2020".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy

from ingot.console.progress import StageError
from ingot.data import meaning
from ingot.data.cleaning import column_name, shown, told
from ingot.data.params import Part
from ingot.data.verdicts import denied, plain

# JSON with a key that may be one of these.
KEYED = r'(?i)"[^"]*(?:{})[^"]*"\s*:'.format(
    "|".join(
        name.replace("_", "[ _-]?")
        for name in (*meaning.VERDICTS, *meaning.SPOKEN, *meaning.MARKS, *meaning.DENIALS, *meaning.OMISSIONS)
    )
)


class Telling(NamedTuple):
    """An unread column that changes what rows mean: which, and the reason why they are refused."""

    column: str
    reason: str
    rows: numpy.ndarray


def telling(rows, name: str, part: Part, left: dict[str, str], fail: bool) -> list[Telling]:
    """The columns without which rows would be taken for what they are not; those of `part.ignore` are left alone.

    `left` are columns that cannot be read. Raises StageError where no row is free of it, or any is not and is to
    `fail`.
    """
    place, ignored = f"dataset.mix.{name}", set(part.ignore or ())
    of_turns = {
        field for field in ignored if field.startswith(tuple(f"{column}[]." for column in part.columns.lists()))
    }
    if unknown := sorted(ignored - of_turns - {*rows.column_names, *left}):
        there = ", ".join(map(column_name, [*rows.column_names, *left][:30]))
        raise StageError(f"{place}.ignore: no column {unknown[0]!r}; there are {there}\n  hint: take it out")
    found = []
    for column in unread(rows, part, left):
        if column in ignored:
            continue
        for reason, those, hint in _what(rows, column, left):
            count, first = int(those.sum()), int(those.argmax())
            if fail or count == len(rows):
                sample = "" if column in left else f", where it holds {sample_of(rows, column, first)}"
                ways = [hint] if hint else []
                ways += ["leave those rows out (dataset.unfit: drop)"] if count < len(rows) else []
                way = f"{', or '.join(ways)}; " if ways else ""
                raise StageError(
                    f"{place}: {count:,} of {len(rows):,} rows have {reason} (the first is row {first}{sample})\n"
                    f"  hint: {way}if it means something else, or to train on them all the same: "
                    f"{ignoring(name, column)}"
                )
            found.append(Telling(column, f"has {reason}", those))
    return found


def ignoring(name: str, field: str) -> str:
    """What stands in params.yaml so that the field is left alone."""
    written = field if re.fullmatch(r"[A-Za-z_]\w*", field) else json.dumps(told(field), ensure_ascii=False)
    return f"dataset.mix.{name}.ignore: [{written}]"


def unread(rows, part: Part, left: dict[str, str]) -> list[str]:
    """The columns that the mapping does not name, in their order."""
    mapped = part.columns.wanted()
    return [column for column in [*rows.column_names, *left] if column not in mapped]


def listed(rows, name: str, part: Part, left: dict[str, str]) -> list[dict[str, Any]]:
    """For the report: each unread column that holds something, in how many rows, and the first of them."""
    found = []
    for column in unread(rows, part, left):
        if column in left:
            found.append(
                {"source": name, "column": column, "rows": len(rows), "sample": "", "why": told(left[column], 200)}
            )
        elif (those := filled(rows, column)).any():
            sample = sample_of(rows, column, int(those.argmax()))
            found.append({"source": name, "column": column, "rows": int(those.sum()), "sample": sample})
    return found


def fields(found: dict[str, tuple[int, Any]], name: str, part: Part) -> list[dict[str, Any]]:
    """The same of the fields of turns that were not read. Raises StageError for one of `ignore` that no turn has."""
    lists = tuple(f"{column}[]." for column in part.columns.lists())
    if unknown := sorted(field for field in {*(part.ignore or ())} - {*found} if field.startswith(lists)):
        there = f"not read are {', '.join(map(told, found))}" if found else "all that turns have is read"
        raise StageError(
            f"dataset.mix.{name}.ignore: no turn has anything in {told(unknown[0])!a}; {there}\n  hint: take it out"
        )
    return [
        {"source": name, "column": field, "rows": rows, "sample": sample(value)}
        for field, (rows, value) in found.items()
    ]


def lines(columns: list[dict[str, Any]], raw: dict[str, int]) -> list[str]:
    """The same for the terminal, a line a column."""
    return [
        f"{one['source']}: {'' if '[].' in one['column'] else 'column '}{column_name(one['column'])} is not read: "
        f"{one['rows']:,} of {raw[one['source']]:,} rows hold something, such as {one['sample']}"
        if one["sample"]
        else f"{one['source']}: column {column_name(one['column'])} is not read: it {one['why']}"
        for one in columns
    ]


def filled(rows, column: str) -> numpy.ndarray:
    """Which rows hold something in it: no null, no blank text, no empty list, no JSON of these."""
    return numpy.concatenate(
        [_filled(plain(chunk)) for chunk in rows.data.column(column).chunks] or [numpy.zeros(0, bool)]
    )


def sample_of(rows, column: str, row: int) -> str:
    """A value, cut, as a message shows it."""
    chunk = plain(rows.data.column(column).slice(row, 1).combine_chunks())
    return sample(chunk.to_pylist()[0])


def sample(value: Any) -> str:
    return shown(value, lambda it: f"{len(it)} bytes" if isinstance(it, bytes) else str(it))


def _what(rows, column: str, left: dict[str, str]) -> list[tuple[str, numpy.ndarray, str]]:
    """What an unread column says of rows, of which, and what to do; empty where it is like any other."""
    name = meaning.plain_name(column)
    kinds = meaning.kinds(name, "column")
    if column in left:
        return [(_reason(kind, column), numpy.ones(len(rows), bool), kind.hint) for kind in kinds[:1]]
    found = []
    if meaning.meaning_of(name):
        those, whole = denied(rows, column, name)
        found = [(_saying(name, repr(column)), those, "")] if those.any() else []
        if whole:
            return found
    for kind in kinds:
        those = _fitting(rows, column, kind)
        if those.any() and not (kind.every and (those != filled(rows, column)).any()):
            return [*found, (_reason(kind, column), those, kind.hint)]
    return [*found, *_within(rows, column)]


def _reason(kind: meaning.Kind, column: str) -> str:
    return f"{kind.what} in {column!a}, {kind.holds}"


def _saying(name: str, column: str) -> str:
    if meaning.meaning_of(name)[0] in (meaning.MARKS, meaning.OMISSIONS):
        return f"a {column} that says not to train on them"
    return f"a {column} that says the answer is not wanted (KTO): every answer is trained on here"


def _fitting(rows, column: str, kind: meaning.Kind) -> numpy.ndarray:
    """The rows whose values are of the kind."""
    type_ = rows.data.column(column).type
    if "binary" in str(type_):  # of Parquet: no need to read the pictures
        return filled(rows, column)
    found = []
    for chunk in rows.data.column(column).chunks:
        full, values = _filled(plain(chunk)), plain(chunk).to_pylist()
        found.append(
            numpy.array(
                [
                    bool(there) and kind.fits(meaning.opened(value, type_))
                    for there, value in zip(full, values, strict=True)
                ],
                bool,
            )
        )
    return numpy.concatenate(found or [numpy.zeros(0, bool)])


def _within(rows, column: str) -> list[tuple[str, numpy.ndarray, str]]:
    """The same of verdicts within the column: of a `meta` of {"desirable": false}, of `labels` of ["bad"]."""
    import pyarrow
    from pyarrow import compute

    kind, found, start = rows.data.column(column).type, {}, 0
    named = meaning.meaning_of(meaning.plain_name(column)) is not None or any(
        meaning.meaning_of(meaning.plain_name(field)) for field in _fields(kind)
    )
    for chunk in map(plain, rows.data.column(column).chunks):
        places: Iterable[int] = ()
        if pyarrow.types.is_string(chunk.type) or pyarrow.types.is_large_string(chunk.type):
            some = compute.match_substring_regex(chunk, r"^\s*[\[{]" if named else r"^\s*\{")
            if not named and compute.any(some).as_py():
                some = compute.and_(some, compute.match_substring_regex(chunk, KEYED))
            places = numpy.flatnonzero(compute.fill_null(some, False).to_numpy(zero_copy_only=False))
        elif named and pyarrow.types.is_nested(kind) and "binary" not in str(kind):
            places = range(len(chunk))
        for place in places:
            if no := meaning.no_within(column, meaning.opened(chunk[int(place)].as_py())):
                found.setdefault(no, numpy.zeros(len(rows), bool))[start + place] = True
        start += len(chunk)
    return [
        (_saying(meaning.plain_name(no), repr(column) if no == column else f"{told(no)!a} in {column!a}"), those, "")
        for no, those in found.items()
    ]


def _fields(kind) -> Iterator[str]:
    import pyarrow

    for field in kind if pyarrow.types.is_struct(kind) else ():
        yield field.name
        yield from _fields(field.type)


def _filled(chunk) -> numpy.ndarray:
    import pyarrow
    from pyarrow import compute

    kind = chunk.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        text = compute.utf8_trim_whitespace(chunk)
        full = compute.and_(chunk.is_valid(), compute.invert(compute.is_in(text, pyarrow.array(meaning.EMPTY, kind))))
    elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        full = compute.greater(compute.fill_null(compute.list_value_length(chunk), 0), 0)
    else:
        full = chunk.is_valid()
    return full.to_numpy(zero_copy_only=False)
