"""Columns that say of a row that it is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy

from ingot.data import meaning

FEW = 16  # different values of a column that may be a verdict
# Columns that never say what a number under `label` stands for, and those that are made for nothing else.
NO_CLASS = re.compile(
    rf"{meaning.NOUNS}|assistant|chosen|prompt|question|instruction|input|user|^text$|sentence|model|source|generator"
    r"|author|origin|annotator|labell?(er|ed)|dataset|(^|_)by$"
)
OF_LABEL = re.compile(r"(text_)?labels?_?(text|names?|str|string|desc(ription)?|class|word|title|readable)?(_text)?")


def denied(rows, column: str, name: str) -> tuple[numpy.ndarray, bool]:
    """The rows that a column of verdicts says no to, and whether verdicts are all that it holds.

    They are where all values are words such as yes and no, or booleans, or 0, 1 and -1; among others only JSON's own
    booleans are verdicts. Under `label` a number is a class and no verdict where a column of texts stands one to one
    with it, as `label_text` does, or Parquet's metadata name the classes.
    """
    import pyarrow
    from pyarrow import compute

    kind, none = rows.data.column(column).type, numpy.zeros(len(rows), bool)
    if pyarrow.types.is_nested(kind) or pyarrow.types.is_binary(kind):
        return none, False
    good, known = meaning.meaning_of(name)[1], meaning.known_words(name)
    chunks = [plain(chunk) for chunk in rows.data.column(column).chunks]
    words = {value: meaning.word_of(value) for value in _different(chunks) or () if value is not None}
    words = {value: word for value, word in words.items() if word not in meaning.NOTHING}
    whole = bool(words) and {*words.values()} <= known.keys()
    if (
        whole
        and name in meaning.CLASSES
        and {*words.values()} <= meaning.NUMBERS.keys()
        and _is_class(rows, column, chunks, [*words])
    ):
        return none, True
    no = [value for value, word in words.items() if whole and known[word] is not good]
    if not whole and name.endswith("weight") and (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        no = [0]
    elif not whole and name.endswith("weight") and meaning.is_json(kind):
        no = ["0", "0.0"]
    elif not whole and meaning.is_json(kind):
        no = ["false" if good else "true"]
    those = [compute.is_in(chunk, pyarrow.array(no, chunk.type)).to_numpy(zero_copy_only=False) for chunk in chunks]
    return numpy.concatenate([*those, none[:0]]), whole


def _different(chunks: Iterable) -> set[Any] | None:
    """The values that there are; None where they are more than a few."""
    from pyarrow import compute

    values: set[Any] = set()
    for chunk in chunks:
        values.update(compute.unique(chunk).to_pylist())
        if len(values) > FEW:
            return None
    return values


def _is_class(rows, column: str, chunks: list, labels: list[Any]) -> bool:
    """Whether a column of texts says what each number stands for: one text for each, which is no verdict itself.

    Questions and answers are no such texts, nor is who wrote them: of two models one may be the worse in every row.
    """
    import pyarrow
    from pyarrow import compute

    if (
        type(rows.features[column]).__name__ == "ClassLabel"
    ):  # of Parquet that `datasets` wrote: it names the classes itself
        return True
    label = pyarrow.chunked_array(chunks)
    for other in rows.column_names:
        name, kind = meaning.plain_name(other), rows.data.column(other).type
        if other == column or not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            continue
        of_label = OF_LABEL.fullmatch(name) is not None
        if not of_label and (meaning.meaning_of(name) or NO_CLASS.search(name)):
            continue
        text = rows.data.column(other)
        words = {meaning.word_of(one) for one in _different(text.chunks) or () if one is not None}
        if len(words) != len(labels) or words <= (meaning.WORDS | meaning.NUMBERS).keys():
            continue
        if not of_label and not 1 < len(labels) < len(rows):
            continue  # as one to one as is any column of one row a label
        both = pyarrow.table({"label": label, "text": text}).filter(compute.is_valid(label))
        if both.group_by(["label", "text"]).aggregate([]).num_rows == len(labels):
            return True
    return False


def plain(chunk):
    """JSON as its text, and views as strings, which Arrow computes with."""
    import pyarrow

    chunk = getattr(chunk, "storage", chunk)
    return chunk.cast(pyarrow.large_string()) if pyarrow.types.is_string_view(chunk.type) else chunk
