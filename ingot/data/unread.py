"""Columns that a mapping does not read: what of them changes what a row means, and a list of all with a sample of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from ingot.console.progress import StageError
from ingot.data.cleaning import shown, told
from ingot.data.params import Part

# Columns that say whether an answer is wanted, where all of their values are among these; the second are those that deny it.
VERDICTS = (
    "label", "labels", "kto_tag", "kto_label", "desirable", "is_desirable", "preferred", "is_preferred", "accepted",
    "is_accepted", "chosen", "is_good", "good", "correct", "is_correct", "thumbs_up", "feedback",
)  # fmt: skip
# The same for columns that say whether a row is to be trained on at all.
MARKS = ("weight", "train", "trainable", "include", "keep", "use", "valid", "is_valid")
WANTED = ("true", "1", "1.0", "good", "desirable", "accepted", "chosen", "thumbs_up", "correct")
UNWANTED = ("false", "0", "0.0", "-1", "-1.0", "bad", "undesirable", "rejected", "thumbs_down", "incorrect", "wrong")
# Columns by their usual names: what a row with something in them is, and what there is for it instead.
MEANING = {
    "preference data": (
        ("rejected", "dispreferred", "non_preferred", "nonpreferred"),
        ("winner", "preference", "overall_preference", "better_response_id", "safer_response_id"),
        "an answer that is not to be learnt: of two answers one is trained on here, as of any other row",
        "map the better answer",
    ),
    "pictures or sound": (
        (),
        ("image", "images", "image_path", "image_paths", "image_url", "image_urls", "img", "picture", "pictures", "video",
         "videos", "audio", "audios", "pixel_values"),
        "pictures or sound: text alone is trained on here",
        "take the set's rows that are text alone",
    ),
    "tools": (
        (),
        ("tools", "functions", "available_tools", "tool_schemas", "function_definitions"),
        "tools that the model could call: they are not part of what is trained here",
        "write them into the system prompt of each row",
    ),
    "earlier turns": (
        (),
        ("history",),
        "turns before the question: only lists of turns are read",
        "write all turns as one list: {messages: [{role, content}, …]}",
    ),
}  # fmt: skip
EMPTY = ["", "[]", "{}", "null", '""', "[null]"]  # texts, as those of JSON, that hold nothing
FEW = 16  # different values of a column that may be a verdict


class Telling(NamedTuple):
    """An unread column that changes what rows mean: which, and the reason why they are refused."""

    column: str
    reason: str
    rows: numpy.ndarray


def telling(rows, name: str, part: Part, left: dict[str, str], fail: bool) -> list[Telling]:
    """The columns without which rows would be taken for what they are not; those of `part.ignore` are left alone.

    `left` are columns that cannot be read. Raises StageError where no row is free of it, or any is not and is to `fail`.
    """
    place, ignored = f"dataset.mix.{name}", set(part.ignore or ())
    if unknown := sorted(ignored - {*rows.column_names, *left}):
        there = ", ".join(map(told, [*rows.column_names, *left][:30]))
        raise StageError(f"{place}.ignore: no column {unknown[0]!r}; there are {there}\n  hint: take it out")
    found = []
    for column in unread(rows, part, left):
        if column in ignored:
            continue
        what = _what(rows, column, left)
        if not what or not what[1].any():
            continue
        reason, those, hint = what
        count, first = int(those.sum()), int(those.argmax())
        if fail or count == len(rows):
            sample = "" if column in left else f", where it holds {sample_of(rows, column, first)}"
            drop = "" if count == len(rows) else ", or leave those rows out (dataset.unfit: drop)"
            raise StageError(
                f"{place}: {count:,} of {len(rows):,} rows have {reason} (the first is row {first}{sample})\n"
                f"  hint: {hint}{drop}; to train on them without it, say so: {place}.ignore: [{told(column)}]"
            )
        found.append(Telling(column, f"has {reason}", those))
    return found


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


def lines(columns: list[dict[str, Any]], raw: dict[str, int]) -> list[str]:
    """The same for the terminal, a line a column."""
    return [
        f"{one['source']}: column {told(one['column'])} is not read: {one['rows']:,} of {raw[one['source']]:,} rows hold "
        f"something, such as {one['sample']}"
        if one["sample"]
        else f"{one['source']}: column {told(one['column'])} is not read: it {one['why']}"
        for one in columns
    ]


def filled(rows, column: str) -> numpy.ndarray:
    """Which rows hold something in it: no null, no blank text, no empty list, no JSON of these."""
    return numpy.concatenate(
        [_filled(_plain(chunk)) for chunk in rows.data.column(column).chunks] or [numpy.zeros(0, bool)]
    )


def sample_of(rows, column: str, row: int) -> str:
    """A value, cut, as a message shows it."""
    chunk = _plain(rows.data.column(column).slice(row, 1).combine_chunks())
    return shown(chunk.to_pylist()[0], lambda it: f"{len(it)} bytes" if isinstance(it, bytes) else str(it))


def _what(rows, column: str, left: dict[str, str]) -> tuple[str, numpy.ndarray, str] | None:
    """What an unread column says of rows, of which, and what to do; None where it is like any other."""
    name = column.lower()
    if name in VERDICTS and column not in left and (those := _denied(rows, column)) is not None:
        reason = f"a {column!a} that says the answer is not wanted (KTO): every answer is trained on here"
        return reason, those, "take those rows out"
    if name in MARKS and column not in left and (those := _denied(rows, column)) is not None:
        return f"a {column!a} that says not to train on them", those, "take those rows out"
    for kind, (parts, names, holds, hint) in MEANING.items():
        if name in names or any(part in name for part in parts):
            if column in left:
                return f"{kind} in {column!a}, {holds}", numpy.ones(len(rows), bool), hint
            if parts and _number(rows, column):
                continue  # a score
            return f"{kind} in {column!a}, {holds}", filled(rows, column), hint
    return None


def _denied(rows, column: str) -> numpy.ndarray | None:
    """The rows whose answers are not wanted; None where the column's values are no verdicts."""
    import pyarrow
    from pyarrow import compute

    kind = rows.data.column(column).type
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
        return None
    values: set[Any] = set()
    for chunk in rows.data.column(column).chunks:
        values.update(compute.unique(_plain(chunk)).to_pylist())
        if len(values) > FEW:
            return None
    words = {value: str(value).strip().strip('"').lower() for value in values if value is not None}
    if not words or not set(words.values()) <= {*WANTED, *UNWANTED, ""}:
        return None
    bad = [value for value, word in words.items() if word in UNWANTED]
    chunks = [_plain(chunk) for chunk in rows.data.column(column).chunks]
    return numpy.concatenate(
        [compute.is_in(chunk, pyarrow.array(bad, chunk.type)).to_numpy(zero_copy_only=False) for chunk in chunks]
    )


def _number(rows, column: str) -> bool:
    import pyarrow

    kind = rows.data.column(column).type
    return any(test(kind) for test in (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean))


def _plain(chunk):
    """JSON as its text, and views as strings, which Arrow computes with."""
    import pyarrow

    chunk = getattr(chunk, "storage", chunk)
    return chunk.cast(pyarrow.large_string()) if pyarrow.types.is_string_view(chunk.type) else chunk


def _filled(chunk) -> numpy.ndarray:
    import pyarrow
    from pyarrow import compute

    kind = chunk.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        text = compute.utf8_trim_whitespace(chunk)
        full = compute.and_(chunk.is_valid(), compute.invert(compute.is_in(text, pyarrow.array(EMPTY, kind))))
    elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        full = compute.greater(compute.fill_null(compute.list_value_length(chunk), 0), 0)
    else:
        full = chunk.is_valid()
    return full.to_numpy(zero_copy_only=False)
