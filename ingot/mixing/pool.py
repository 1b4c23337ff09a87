"""What the sets offer: every fit row as a conversation on disk, key and place in memory. And what was dropped, why."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from ingot.chat.encoding import Message
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.data.cleaning import KEPT, Unfit, says_nothing, told
from ingot.data.conversations import Mapping, bare
from ingot.data.meaning import Refused
from ingot.data.unread import Telling, ignoring
from ingot.mixing.near_duplicates import Frame

AT_ONCE = 1000  # rows read at once
BUFFER = 1_000_000  # bytes of a spool that wait in memory
FRAMED = 2000  # rows of a set that its frame is found in
JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # one for all: `json.dumps` makes one for each row
EXAMPLES, SHOWN = 3, 200  # dropped rows shown for each set and reason; characters of each


class Spool:
    """Rows as bytes in one nameless file: 5 million of them need no memory, and vanish with the process."""

    def __init__(self, folder: Path):
        self.file = tempfile.TemporaryFile(buffering=BUFFER, dir=folder)  # noqa: SIM115 (open as long as this is)
        self.end = self.written = 0  # bytes given, and those of them that the file surely has

    def add(self, data: bytes) -> int:
        """Where it begins."""
        at, self.end = self.end, self.end + len(data)
        self.file.write(data)
        return at

    def read(self, at: int, size: int) -> bytes:
        if at + size > self.written:
            end = self.end  # before the flush: what another thread adds after it is not in the file
            self.file.flush()
            self.written = end
        return os.pread(self.file.fileno(), size, at)


@dataclass
class Pool:
    """The fit rows of one set, in the order of its files."""

    name: str
    raw: int  # rows of the set
    key: numpy.ndarray  # n × 2, uint64: a hash of seed and conversation; the first half draws, the second shuffles
    row: numpy.ndarray
    at: numpy.ndarray  # in the spool
    size: numpy.ndarray
    frame: Frame | None = None

    def keep(self, those: numpy.ndarray) -> None:
        self.key, self.row, self.at, self.size = (field[those] for field in (self.key, self.row, self.at, self.size))


class Drops:
    """Counts every row that is not taken, by set and reason, and keeps the first examples of each."""

    def __init__(self, fail: bool):
        self.fail = fail
        self.counts: dict[str, Counter[str]] = {}
        self.examples: list[dict[str, Any]] = []
        self.first, self.hint = "", ""  # the fault that ends the stage, and what to do
        self.taken_by = ""  # the param that takes such rows all the same
        self.faults: Counter[str] = Counter()

    def unfit(self, name: str, row: int, error: Unfit, text: str) -> None:
        """A row that cannot be trained on; where `dataset.unfit` says so the stage fails for it, once it settles."""
        if self.fail:
            shown = f" ({told(error.detail)})" if error.detail else ""
            if not self.hint and isinstance(error, Refused):
                way = f"{error.hint}; " if error.hint else ""
                self.hint = f"\n  hint: {way}to train on such rows all the same: {ignoring(name, error.field)}"
            if not self.first:
                self.first, self.taken_by = f"raw.datasets.{name}, row {row}: {error.reason}{shown}", error.taken_by
            self.faults[error.reason] += 1
        self.count(name, row, error.reason, text, error.detail)

    def settle(self) -> None:
        """Raise StageError for the rows that the stage is to fail for, the first of them with its place."""
        if not self.first:
            return
        every = ", ".join(f"{rows:,} × {reason}" for reason, rows in self.faults.most_common(8))
        many = f"\n  in all: {every}; examples of each are in reports/dataset.json" if self.faults.total() > 1 else ""
        taken = f", or {self.taken_by} to train on it all the same" if self.taken_by else ""
        raise StageError(f"{self.first}. Mend the row, or set dataset.unfit: drop{taken}{many}{self.hint}")

    def count(self, name: str, row: int, reason: str, text: str, detail: str = "") -> None:
        counts = self.counts.setdefault(name, Counter())
        counts[reason] += 1
        if counts[reason] <= EXAMPLES:
            self.examples.append(
                {"source": name, "row": row, "reason": reason, "detail": _short(detail), "text": _short(text)}
            )

    def of(self, name: str) -> dict[str, int]:
        return dict(self.counts.get(name, {}))

    def told(self, *names: str) -> str:
        """` (dropped: 3 × empty assistant turn)`, of these sets; empty where nothing was."""
        listed = self.listed(*names)
        return f" (dropped: {listed})" if listed else ""

    def listed(self, *names: str, since: Drops | None = None) -> str:
        """`3 × empty assistant turn`, of these sets; without those that were dropped before."""
        counts = sum((self.counts.get(name, Counter()) for name in names), Counter())
        counts -= sum((since.counts.get(name, Counter()) for name in names), Counter()) if since else Counter()
        return ", ".join(f"{rows:,} × {reason}" for reason, rows in sorted(counts.items()))


def survey(
    rows,
    name: str,
    mapping: Mapping,
    seed: int,
    spool: Spool,
    drops: Drops,
    refused: Sequence[Telling] = (),
    table: bool = False,
) -> Pool:
    """Map and clean every row of a set; what is fit goes to the spool.

    `refused` are rows that unread columns speak against. Of a `table` (CSV) the cells that say nothing (`nan`, `NULL`,
    `#REF!`) are read as empty, unless placeholders are kept. Where a row will stand is decided by its content and the
    seed, not by its place: the same rows in other files, or with others among them, are drawn in the same order.
    """
    wanted = mapping.columns.wanted()
    rows = rows.select_columns(wanted)
    # JSON's own nulls were written; Arrow's may be no more than keys of other rows.
    nested = [column for column in wanted if type(rows.features[column]).__name__ not in ("Value", "Json")]
    table = table and mapping.clean.params.placeholders == "refuse"
    emptied: dict[str, Counter[str]] = {}
    key, places, at, size = array("Q"), array("q"), array("q"), array("q")
    salt = seed.to_bytes(8, "little")
    with progress.bar(name) as bar:
        task = bar.add_task(name, total=len(rows))
        for start in range(0, len(rows), AT_ONCE):
            columns = rows[start : start + AT_ONCE]
            for place, values in enumerate(zip(*(columns[column] for column in wanted), strict=True), start):
                row = dict(zip(wanted, values, strict=True))
                for column in nested:
                    row[column] = bare(row[column])
                text, void = row, {}
                if table:
                    void = {c: value for c, value in row.items() if isinstance(value, str) and says_nothing(value)}
                    row = row | dict.fromkeys(void, "")
                    for column, value in void.items():
                        emptied.setdefault(column, Counter())[value] += 1
                try:
                    for one in refused:
                        if one.rows[place]:
                            raise Unfit(one.reason)
                    data = written(mapping(row))
                except Unfit as error:
                    if void and not error.detail:
                        cells = ", ".join(f"{value!r} in the column {column!r}" for column, value in void.items())
                        error = Unfit(error.reason, f"{cells} is read as an empty cell", KEPT)
                    drops.unfit(name, place, error, str(text))
                    continue
                digest = hashlib.blake2b(data, digest_size=16, key=salt).digest()
                key.frombytes(digest)
                places.append(place)
                at.append(spool.add(data))
                size.append(len(data))
            bar.update(task, completed=min(start + AT_ONCE, len(rows)))
    for column, values in emptied.items():
        some = ", ".join(repr(value) for value, _ in values.most_common(3))
        cells = progress.quantity(values.total(), "cells")
        progress.console.print(
            f"  {name}: {cells} of {column!r} read as empty: {some} ({KEPT} reads the text)", markup=False
        )
    keys = numpy.frombuffer(key, dtype="<u8").reshape(-1, 2)
    place, at, size = (numpy.frombuffer(field, dtype=numpy.int64) for field in (places, at, size))
    some = numpy.lexsort((place, keys[:, 1], keys[:, 0]))[:FRAMED]  # by content, in whatever order the rows stand
    frame = Frame([json.loads(spool.read(at[index], size[index])) for index in some])
    return Pool(name, len(rows), keys, place, at, size, frame)


def written(messages: list[Message]) -> bytes:
    """As they will stand in the dataset's files."""
    try:
        return JSON.encode(messages).encode()
    except UnicodeEncodeError as error:
        raise Unfit("a lone surrogate, which UTF-8 cannot hold", repr(error.object[error.start : error.end])) from None


def drop_equal(pools: list[Pool], spool: Spool, drops: Drops) -> None:
    """Leave one of those rows whose conversations are equal: the first row of the set whose name comes first."""
    key = numpy.concatenate([pool.key for pool in pools])
    source = numpy.repeat(numpy.arange(len(pools)), [len(pool.row) for pool in pools])
    row = numpy.concatenate([pool.row for pool in pools])
    order = numpy.lexsort((row, source, key[:, 1], key[:, 0]))
    again = numpy.zeros(len(order), dtype=bool)
    again[1:] = (key[order[1:]] == key[order[:-1]]).all(axis=1)
    first = numpy.maximum.accumulate(numpy.where(again, 0, numpy.arange(len(order))))
    original = numpy.full(len(order), -1)
    original[order[again]] = order[first[again]]
    begin = 0
    for pool in pools:
        originals = original[begin : begin + len(pool.row)]
        begin += len(pool.row)
        for index in numpy.flatnonzero(originals >= 0):
            other = originals[index]
            text = spool.read(pool.at[index], min(pool.size[index], 4 * SHOWN)).decode("utf-8", "ignore")
            of = f"row {row[other]} of {pools[source[other]].name}"
            drops.count(pool.name, int(pool.row[index]), "duplicate of another row", text, of)
        pool.keep(originals < 0)


def _short(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()  # what has no UTF-8 is shown all the same
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"
