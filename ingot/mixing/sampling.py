"""Drawing rows out of a pool, in its order, until enough have passed what only tokens and other rows can tell."""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy

from ingot.chat import counting, token_files
from ingot.chat.counting import Counted
from ingot.chat.encoding import Message
from ingot.data.cleaning import Unfit
from ingot.data.params import Clean
from ingot.mixing.near_duplicates import Index, Keys, compared, mixed, signed
from ingot.mixing.pool import Drops, Pool, Spool

# A batch is bounded in rows and in bytes, so that rows of 100,000 characters need no more memory than others.
BATCH_ROWS, BATCH_BYTES = 512, 1_000_000
SAID_EVERY = 100  # rows: a bar that moves for each takes longer than what it counts


class Judged(NamedTuple):
    """A row with all that decides on it."""

    index: int  # in its pool
    messages: list[Message]
    counted: Counted
    bins: numpy.ndarray | None  # its signature, and its keys in the indexes of near duplicates and of leaks
    near: Keys | None
    leak: Keys | None


@dataclass
class Drawn:
    """Rows taken from one pool: their indices there, tokens and trained tokens; and how many were tried for that."""

    pool: Pool
    tried: int = 0
    # Arrays: as Python's objects millions of numbers would take more memory than all the rest.
    index: array = field(default_factory=lambda: array("q"))
    tokens: array = field(default_factory=lambda: array("q"))
    trained: array = field(default_factory=lambda: array("q"))
    at: array = field(default_factory=lambda: array("q"))  # where the drawing's spool of tokens has a row, packed
    size: array = field(default_factory=lambda: array("q"))  # of what it has there, in bytes


class Drawing:
    """Judges rows on every core, takes them one after another: their order alone decides, not which core was first."""

    def __init__(
        self,
        clean: Clean,
        counter: counting.Counter,
        spool: Spool,
        drops: Drops,
        rows: int,
        held_out: int,
        drew: Callable[[int], None],
        scratch: Path | None = None,
    ):
        self.clean, self.counter, self.spool, self.drops, self.drew = clean, counter, spool, drops, drew
        self.near = Index(rows, clean.near_duplicates, scratch) if clean.near_duplicates is not None else None
        self.leaks = Index(held_out, clean.leaks, scratch) if clean.leaks is not None else None
        self.packed = Spool(scratch)  # of the rows that are taken: their tokens and text
        self.cut: Counter[str] = Counter()  # what truncation would have done to the rows that are too long
        self.cores = len(os.sched_getaffinity(0))

    def __call__(self, pool: Pool, order: numpy.ndarray, wanted: int, held_out: bool) -> Drawn:
        """At most `wanted` rows of the pool, its indices tried in `order`. Held-out rows come before all others."""
        drawn = Drawn(pool)
        if not wanted:
            return drawn
        for row in self._judged(pool, order, wanted, drawn, held_out):
            drawn.tried += 1
            if self._fits(pool, row, held_out):
                drawn.index.append(row.index)
                drawn.tokens.append(row.counted.tokens)
                drawn.trained.append(row.counted.trained)
                data = packed(row.counted)
                drawn.at.append(self.packed.add(data))
                drawn.size.append(len(data))
                if len(drawn.index) % SAID_EVERY == 0:
                    self.drew(SAID_EVERY)
                if len(drawn.index) == wanted:
                    break
        self.drew(len(drawn.index) % SAID_EVERY)
        return drawn

    def _judged(self, pool: Pool, order: numpy.ndarray, wanted: int, drawn: Drawn, held_out: bool) -> Iterator[Judged]:
        """Rows in order; a few batches ahead are worked on, of no more rows than are still wanted."""
        ahead: deque[tuple[int, Future[list[Judged]]]] = deque()
        begin = 0
        with ThreadPoolExecutor(self.cores) as threads:
            while begin < len(order) or ahead:
                missing = wanted - len(drawn.index) - sum(rows for rows, _ in ahead)
                if begin < len(order) and len(ahead) <= self.cores and (missing > 0 or not ahead):
                    sizes = numpy.cumsum(pool.size[order[begin : begin + min(BATCH_ROWS, max(missing, 16))]])
                    rows = max(1, int(numpy.searchsorted(sizes, BATCH_BYTES)))
                    ahead.append((rows, threads.submit(self._judge, pool, order[begin : begin + rows], held_out)))
                    begin += rows
                else:
                    yield from ahead.popleft()[1].result()

    def _judge(self, pool: Pool, indices: numpy.ndarray, held_out: bool) -> list[Judged]:
        conversations = [json.loads(self.spool.read(pool.at[index], pool.size[index])) for index in indices]
        nothing = [None] * len(indices)
        bins = near = leak = nothing
        if self.near or self.leaks:
            bins = signed([compared(messages, pool.frame) for messages in conversations])
            near = self.near.keys(bins) if self.near else nothing
            leak = self.leaks.keys(bins) if self.leaks else nothing
            if self.leaks and not held_out:  # no held-out row is added any more
                leak = self.leaks.sharing(leak)
        counted = self.counter(conversations)
        return [Judged(*row) for row in zip(indices.tolist(), conversations, counted, bins, near, leak, strict=True)]

    def _fits(self, pool: Pool, row: Judged, held_out: bool) -> bool:
        """Whether the row is taken; if not it is counted."""
        number, text = int(pool.row[row.index]), row.messages[-2]["content"]
        try:
            self._check(row)
        except Unfit as error:
            self.drops.unfit(pool.name, number, error, text)
            self.drops.settle()
            return False
        for index, keys, reason in (
            (self.leaks, row.leak, "near duplicate of a held-out row"),
            (self.near, row.near, "near duplicate of another row"),
        ):
            if index and keys and not (held_out and index is self.leaks) and (alike := index.resembled(row.bins, keys)):
                self.drops.count(pool.name, number, reason, text, f"similarity {max(alike.values()):.2f}")
                return False
        if self.near:
            self.near.take(row.bins, row.near)
        if self.leaks and held_out:
            self.leaks.take(row.bins, row.leak)
        return True

    def _check(self, row: Judged) -> None:
        counted, longest, least = row.counted, self.counter.longest, self.clean.min_answer_tokens
        if self.counter.forged(row.messages, counted):
            raise Unfit("control tokens that the template did not write")
        if counted.tokens > longest:
            self.cut += Counter(rows=1, tokens=counted.tokens - longest, trained=counted.beyond)
            raise Unfit(f"more than max_seq_length ({longest}) tokens", f"{counted.tokens} tokens")
        answers = sum(message["role"] == "assistant" for message in row.messages)
        if counted.trained - answers < least:
            raise Unfit(f"fewer than min_answer_tokens ({least}) trained", f"{counted.trained - answers} tokens")

    def write(self, path: Path, parts: list[Drawn], wanted: list[int], wrote: Callable[[int], None]) -> None:
        """Write `wanted` rows of each part, going round where it has fewer, all shuffled by their keys.

        As conversations to `path`.jsonl, as tokens to `path`.arrow, in the same order.
        """
        places, key = [], []
        for drawn, rows in zip(parts, wanted, strict=True):
            places.append(numpy.resize(numpy.arange(len(drawn.index)), rows))
            copy = numpy.arange(rows, dtype=numpy.uint64) // numpy.uint64(max(1, len(drawn.index)))
            index = numpy.array(drawn.index, dtype=numpy.int64)[places[-1]]
            key.append(mixed(drawn.pool.key[index, 1] + copy))
        part, place = numpy.repeat(numpy.arange(len(parts)), wanted), numpy.concatenate(places)
        order = numpy.lexsort((part, numpy.concatenate(key)))
        with path.with_suffix(".jsonl").open("wb") as file, token_files.Writer(path.with_suffix(".arrow")) as tokens:
            for start in range(0, len(order), BATCH_ROWS):
                some = order[start : start + BATCH_ROWS]
                rows = [(parts[each], at) for each, at in zip(part[some].tolist(), place[some].tolist(), strict=True)]
                self._write(rows, file, tokens)
                wrote(len(some))

    def _write(self, rows: list[tuple[Drawn, int]], file: BinaryIO, tokens: token_files.Writer) -> None:
        for drawn, at in rows:
            pool, index = drawn.pool, drawn.index[at]
            head = f'{{"source":"{pool.name}","row":{pool.row[index]},"tokens":{drawn.tokens[at]},"messages":'
            file.write(head.encode() + self.spool.read(pool.at[index], pool.size[index]) + b"}\n")
            tokens.add(*unpacked(self.packed.read(drawn.at[at], drawn.size[at]), drawn.tokens[at]))


def packed(counted: Counted) -> bytes:
    """How many answers; where each begins and ends; the ids, all of it int32; and the text."""
    numbers = numpy.array([len(counted.answers), *chain.from_iterable(counted.answers)], numpy.int32)
    return numbers.tobytes() + counted.ids.astype(numpy.int32).tobytes() + counted.text.encode()


def unpacked(data: bytes, tokens: int) -> tuple[str, numpy.ndarray, numpy.ndarray]:
    """The text, its ids, and the spans of its answers in them (answers × 2)."""
    answers = 1 + 2 * int.from_bytes(data[:4], sys.byteorder)
    numbers = numpy.frombuffer(data, numpy.int32, answers + tokens)
    return data[numbers.nbytes :].decode(), numbers[answers:], numbers[1:answers].reshape(-1, 2)
