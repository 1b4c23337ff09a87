"""Token files: each conversation's text, token ids and labels, as an Apache Arrow stream (memory-mapped when read).

`datasets.Dataset.from_file` opens one. The columns `input_ids` and `labels` are what trainers take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy
import pyarrow
import pyarrow.compute

from ingot.chat.encoding import Encoded
from ingot.chat.tokens import Span
from ingot.console.progress import StageError, foreign

IGNORED = -100  # the label of a token that no loss is taken on, for PyTorch and all trainers
INTEGERS = pyarrow.list_(pyarrow.int32())
SCHEMA = pyarrow.schema({"text": pyarrow.string(), "input_ids": INTEGERS, "labels": INTEGERS})
AGAIN = "remove it, then run `dvc repro dataset`"
BATCH_ROWS, BATCH_TOKENS = 1000, 1_000_000  # of a record batch, at most: a reader holds one


class Writer:
    """Writes a file, conversation by conversation; the same conversations give the same bytes."""

    def __init__(self, path: Path):
        self.stream = pyarrow.ipc.new_stream(str(path), SCHEMA)
        self.texts: list[str] = []
        self.ids: list[numpy.ndarray] = []
        self.trained: list[Sequence[Span] | numpy.ndarray] = []
        self.tokens = 0

    def add(self, text: str, ids: numpy.ndarray, trained: Sequence[Span] | numpy.ndarray) -> None:
        """One conversation; of its `ids` those in the spans `trained` are their own labels."""
        self.texts.append(text)
        self.ids.append(ids)
        self.trained.append(trained)
        self.tokens += len(ids)
        if len(self.texts) == BATCH_ROWS or self.tokens >= BATCH_TOKENS:
            self._write()

    def _write(self) -> None:
        offsets = numpy.cumsum([0, *map(len, self.ids)], dtype=numpy.int32)
        ids = numpy.concatenate(self.ids).astype(numpy.int32)
        # Every span's first token counts up, the one after its last counts down: what is above 0 is in a span.
        spans = numpy.concatenate([numpy.reshape(some, (-1, 2)) for some in self.trained]).astype(numpy.int64)
        spans += numpy.repeat(offsets[:-1], [len(some) for some in self.trained])[:, None]
        steps = numpy.zeros(len(ids) + 1, numpy.int32)
        numpy.add.at(steps, spans[:, 0], 1)
        numpy.subtract.at(steps, spans[:, 1], 1)
        labels = numpy.where(numpy.cumsum(steps[:-1]) > 0, ids, numpy.int32(IGNORED))
        lists = [pyarrow.ListArray.from_arrays(offsets, values) for values in (ids, labels)]
        texts = pyarrow.array(self.texts, pyarrow.string())
        self.stream.write_batch(pyarrow.record_batch([texts, *lists], schema=SCHEMA))
        self.texts, self.ids, self.trained, self.tokens = [], [], [], 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, failed, *_) -> None:
        if self.texts and not failed:
            self._write()
        self.stream.close()


def rows(path: Path, start: int = 0) -> Iterator[Encoded]:
    """Its conversations in order, from number `start` on; of the file no more than a batch is in memory."""
    for batch in _batches(path):
        for row in batch.slice(min(start, len(batch))).to_pylist():
            yield Encoded(row["text"], row["input_ids"], [label != IGNORED for label in row["labels"]])
        start = max(0, start - len(batch))


def row(path: Path, number: int) -> Encoded:
    """Its conversation number `number`, from 0. Raises StageError where it has none."""
    for found in rows(path, number):
        return found
    raise StageError(f"{path}: has no row {number}, though the .jsonl beside it has\nhint: {AGAIN}")


def first(path: Path, count: int) -> list[Encoded]:
    """Its first conversations, all where it has fewer."""
    return [*islice(rows(path), count)]


def totals(path: Path) -> tuple[int, int, int]:
    """Its conversations, their tokens, and those of them that are trained."""
    found = [0, 0, 0]
    for batch in _batches(path):
        labels = batch["labels"].flatten()
        trained = pyarrow.compute.sum(pyarrow.compute.not_equal(labels, IGNORED)).as_py()
        found = [have + more for have, more in zip(found, (len(batch), len(labels), trained or 0), strict=True)]
    return found[0], found[1], found[2]


def _batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    what = f"{path}: cannot be read as a token file"
    with foreign(what, AGAIN):
        stream = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
    while True:
        with foreign(what, AGAIN):  # around the reading alone, not around what a caller does with the batch
            batch = next(stream, None)
        if batch is None:
            return
        yield batch
