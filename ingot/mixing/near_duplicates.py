"""Near duplicates by MinHash, in numpy: rows whose texts share most of their shingles.

A shingle is eight bytes of the text, a word or so, in any script. Own code, for this is one sort of hashing and sixty
lines: the libraries for it draw their hash functions from a generator of their own, work on one row at a time in
Python, or bring a compiled wheel, and each would be one more thing that the dataset's bytes hang on.

One hash falls each shingle into one of 128 bins and leaves the least hash of each (one permutation hashing; Li, Owen
and Zhang, 2012); the share of equal bins estimates the Jaccard similarity of two rows, to about ± 0.03. Rows that agree
in one band of bins at least are compared at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy

from ingot.chat.encoding import Message

SHINGLE, BINS = 8, 128
EMPTY, NOTHING = 0, 0xFFFFFFFF  # of a signature, whose hashes go from 1 to 255; of the hashes it is made from
ROW, FREE = numpy.uint64(0xFFFFFFFF), numpy.uint64(0xFFFFFFFFFFFFFFFF)  # of a slot: where it holds a row; no row
# Of a row, for each band: its hash, and the slot of the table that it falls into.
Keys = tuple[numpy.ndarray, numpy.ndarray]
_MIX = (numpy.uint64(0xBF58476D1CE4E5B9), numpy.uint64(0x94D049BB133111EB))  # splitmix64's


class Frame:
    """What many first questions of a set begin and end with, as an instruction that stands before each headline.

    Like the system prompt it says nothing of how alike two rows are, and is left out of what is compared. It is what a
    fifth of the questions share, so that one which a few rows repeat, or a text in a set of few rows, is no frame.
    """

    LEAST, SHORT, PART, MOST = 20, 24, 0.2, 16  # rows; characters; part of the rows; beginnings, and ends

    def __init__(self, conversations: Sequence[Sequence[Message]]) -> None:
        questions = [conversation[_asked(conversation)]["content"] for conversation in conversations]
        self.begins = self._shared(questions)
        self.ends = [text[::-1] for text in self._shared([text[::-1] for text in questions])]

    def _shared(self, texts: list[str]) -> list[str]:
        """Beginnings that enough of the texts have: in sorted order those between two that share one have it, too."""
        texts, span = sorted(texts), max(self.LEAST, int(len(texts) * self.PART)) - 1
        pairs = zip(texts, texts[span:], strict=False)
        found = {shared for pair in pairs if len(shared := _beginning(*pair)) >= self.SHORT}
        return sorted(found, key=lambda text: (-len(text), text))[: self.MOST]

    def inside(self, text: str) -> str:
        """The text without the frame."""
        begin = next((len(one) for one in self.begins if text.startswith(one)), 0)
        end = next((len(one) for one in self.ends if text.endswith(one)), 0)
        return text[begin : max(begin, len(text) - end)]


def _beginning(text: str, other: str) -> str:
    """The longest that both begin with."""
    low, high = 0, min(len(text), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text[:middle] == other[:middle] else (low, middle - 1)
    return text[:low]


def _asked(messages: Sequence[Message]) -> int:
    """Where the first question stands."""
    return next(place for place, message in enumerate(messages) if message["role"] == "user")


def compared(messages: Sequence[Message], frame: Frame | None = None) -> bytes:
    """What of a conversation is compared: all but system prompt and frame, which sets share; no case, no spacing."""
    framed = _asked(messages) if frame and (frame.begins or frame.ends) else -1
    text = " ".join(
        frame.inside(message["content"]) if place == framed else message["content"]
        for place, message in enumerate(messages)
        if message["role"] != "system"
    )
    return " ".join(text.lower().split()).encode()


def signed(texts: Sequence[bytes]) -> numpy.ndarray:
    """The texts' signatures: texts × BINS, uint8."""
    lengths = numpy.array([max(len(text), SHINGLE) for text in texts], dtype=numpy.int64)
    data = b"".join(text.ljust(SHINGLE, b"\0") for text in texts)
    shingles = numpy.ndarray((len(data) - SHINGLE + 1,), "<u8", data, strides=(1,))
    text = numpy.repeat(numpy.arange(len(texts)), lengths)[: len(shingles)]
    whole = numpy.ones(len(shingles), dtype=bool)  # of one text, not of one's end and the next one's start
    for back in range(1, SHINGLE):
        whole[numpy.cumsum(lengths)[:-1] - back] = False
    hashes = mixed(shingles[whole])
    least = numpy.full(len(texts) * BINS, NOTHING, dtype=numpy.uint32)
    place = text[whole] * BINS + (hashes >> numpy.uint64(57)).astype(numpy.int64)
    numpy.minimum.at(least, place, (hashes & numpy.uint64(NOTHING - 1)).astype(numpy.uint32))
    bins = (least % numpy.uint32(255) + numpy.uint32(1)).astype(numpy.uint8)
    bins[least == NOTHING] = EMPTY
    return bins.reshape(-1, BINS)


class Index:
    """Rows taken so far, and which of them a new one resembles: about 130 bytes a row in memory, and 128 in a file.

    The file has no name and lies in `folder`, on a disk: the kernel keeps of it in memory what there is room for.
    """

    def __init__(self, rows: int, threshold: float, folder: Path | None = None):
        self.threshold = threshold
        # As few bands as find a pair at the threshold 98 times in 100: more only bring up more pairs below it.
        width = max(width for width in (16, 8, 4, 2) if width == 2 or (1 - threshold**width) ** (BINS / width) < 0.02)
        self.bands, self.size = BINS // width, max(rows, 1024)
        # A slot keeps the first row that fell into it. A row of another bucket that finds it taken is found by its
        # other bands; that loses less than the estimate's own uncertainty, and a lookup is one read. Beside the row
        # stands a part of its bucket's hash: most of the taken slots are another bucket's, and their signatures need
        # not be read.
        self.table = numpy.full(self.bands * self.size, FREE, dtype=numpy.uint64)  # one band after the other
        with tempfile.TemporaryFile(dir=folder) as file:
            # asarray: numpy's own type for mapped files takes longer at every access.
            self.bins = numpy.asarray(numpy.memmap(file, numpy.uint8, "w+", shape=(max(rows, 1), BINS)))
        self.count = 0

    def keys(self, bins: numpy.ndarray) -> list[Keys]:
        """Each row's hash of each band, and its slots: of many rows at once, for a call of numpy costs more than a row.

        An empty bin borrows from the next that is not, or short texts would all agree.
        """
        twice = numpy.concatenate([bins, bins], axis=1)
        places = numpy.where(twice != EMPTY, numpy.arange(2 * BINS), 2 * BINS)
        filled = numpy.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1][:, :BINS]
        borrowed = numpy.take_along_axis(twice, filled, axis=1).astype(numpy.uint64)
        # How far it was borrowed from belongs to it, or all borrowers of a bin would count as agreements of their own.
        borrowed += (filled - numpy.arange(BINS)).astype(numpy.uint64) << numpy.uint64(8)
        hashes = numpy.zeros((len(bins), self.bands), dtype=numpy.uint64)
        for column in borrowed.reshape(len(bins), self.bands, -1).transpose(2, 0, 1):
            hashes = mixed(hashes + column + numpy.uint64(1))
        slots = (hashes % numpy.uint64(self.size)).astype(numpy.int64) + numpy.arange(self.bands) * self.size
        return [*zip(hashes, slots, strict=True)]

    def sharing(self, keys: list[Keys]) -> list[Keys | None]:
        """Of many rows the keys, None where no taken row shares a band: then it resembles none."""
        hashes, slots = (numpy.stack(each) for each in zip(*keys, strict=True))
        same = ((self.table.take(slots) ^ hashes) <= ROW).any(axis=1)
        return [one if shares else None for one, shares in zip(keys, same.tolist(), strict=True)]

    def resembled(self, bins: numpy.ndarray, keys: Keys) -> dict[int, float]:
        """The taken rows (counted as they were taken) that this one resembles, and how much."""
        hashes, slots = keys
        found = self.table.take(slots)
        same = (found ^ hashes) <= ROW
        if not numpy.count_nonzero(same):
            return {}
        taken = numpy.unique(found[same] & ROW).astype(numpy.int64)
        taken = taken[taken < self.count]
        filled = (self.bins[taken] != EMPTY) | (bins != EMPTY)
        alike = ((self.bins[taken] == bins) & filled).sum(axis=1) / filled.sum(axis=1)
        return {
            row: share for row, share in zip(taken.tolist(), alike.tolist(), strict=True) if share >= self.threshold
        }

    def take(self, bins: numpy.ndarray, keys: Keys) -> None:
        """Remember this row."""
        hashes, slots = keys
        free = self.table.take(slots) == FREE
        self.table[slots[free]] = (hashes[free] & ~ROW) | numpy.uint64(self.count)
        self.bins[self.count] = bins
        self.count += 1


def mixed(values: numpy.ndarray) -> numpy.ndarray:
    """splitmix64's finish: a change of any bit reaches every other."""
    values = (values ^ (values >> numpy.uint64(30))) * _MIX[0]
    values = (values ^ (values >> numpy.uint64(27))) * _MIX[1]
    return values ^ (values >> numpy.uint64(31))
