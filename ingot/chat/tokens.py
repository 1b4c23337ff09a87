"""Token ids of many texts, and which of them stand in given parts of each.

A byte-level BPE vocabulary, as Qwen, Llama 3 and Phi-4 have it, is encoded by tiktoken: the same ids in a quarter of
the time. Its rule differs from that of the base's own tokenizer where a vocabulary was not made by its merges, so it is
taken only for files that say the same to both, after it has encoded some of the run's own texts equally.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import compress, pairwise
from typing import Any

import numpy

FEW = 1_000  # texts that are encoded before tiktoken is asked: it takes seconds to start
Span = tuple[int, int]  # of a text's characters, or of its tokens: the first, and the one after the last
Ids = tuple[numpy.ndarray, list[Span]]  # a text's ids, and spans of them
# What NFC may change. What is left out it never does, by Unicode's rules for its own versions: letters before the first
# combining mark, punctuation, kana without the marks that voice them, Chinese characters, whole syllables of Hangul.
COMPOSES = re.compile("[^\0-\u02ff\u2010-\u206f\u3001-\u3029\u3030-\u3098\u309b-\u30ff\u4e00-\u9fff\uac00-\ud7a3]")
NONE = numpy.zeros(0, numpy.uint32)


class Encoder:
    """Encodes texts as `backend` (of the library tokenizers) does, without adding special tokens."""

    def __init__(self, backend):
        self.slow, self.fast, self.seen = backend, None, 0

    def __call__(self, texts: Sequence[str], spans: Sequence[list[Span]]) -> list[Ids]:
        """Each text's ids (uint32), and for each of its spans of characters the span of tokens that begin in it."""
        if not self.fast:
            found = self._slowly(texts, spans)
            before = self.seen
            self.seen += len(texts)
            if before < FEW <= self.seen and (fast := Tiktoken.of(self.slow)):
                again = zip(fast.encode(texts, spans), found, strict=True)
                agreed = all(other is None or same(other, slow) for other, slow in again)
                self.fast = fast if agreed else None
            return found
        found = self.fast.encode(texts, spans)
        other = [place for place, encoded in enumerate(found) if encoded is None]
        slow = self._slowly([texts[place] for place in other], [spans[place] for place in other])
        for place, encoded in zip(other, slow, strict=True):
            found[place] = encoded
        return found

    def _slowly(self, texts: Sequence[str], spans: Sequence[list[Span]]) -> list[Ids]:
        made = []
        for found, wanted in zip(self.slow.encode_batch(list(texts), add_special_tokens=False), spans, strict=True):
            offsets = found.offsets
            places = [(bisect_left(offsets, (start,)), bisect_left(offsets, (stop,))) for start, stop in wanted]
            made.append((numpy.array(found.ids, numpy.uint32), places))
        return made


def same(encoded: Ids, other: Ids) -> bool:
    """Whether both have the same ids and spans."""
    return encoded[1] == other[1] and numpy.array_equal(encoded[0], other[0])


class Tiktoken:
    """A byte-level BPE tokenizer, encoded by tiktoken."""

    def __init__(self, pattern: str, words: dict[bytes, int], controls: dict[str, int], normalizer, trim: bool):
        import tiktoken

        self.encoding = tiktoken.Encoding("base", pat_str=pattern, mergeable_ranks=words, special_tokens=controls)
        self.normalizer = normalizer
        # By id: a token's bytes, and, where `trim_offsets` is set, its first spaces, after which it begins.
        size = 1 + max([*words.values(), *controls.values()])
        self.length, self.spaces = numpy.zeros(size, numpy.int64), numpy.zeros(size, numpy.int64)
        for control, token in controls.items():
            self.length[token] = len(control.encode())
        for word, token in words.items():
            self.length[token] = len(word)
            if trim and word[:1] == b" ":
                self.spaces[token] = len(word) - len(word.lstrip(b" "))

    def encode(self, texts: Sequence[str], spans: Sequence[list[Span]]) -> list[Ids | None]:
        """As an Encoder does, for many texts at once: a call of numpy costs more than a text. None for a text that the
        tokenizer's normaliser would change.
        """
        kept = [not self._changes(text) for text in texts]
        texts, spans = [*compress(texts, kept)], [*compress(spans, kept)]
        ids = [self.encoding.encode_to_numpy(text, allowed_special="all", disallowed_special=()) for text in texts]
        # Of all texts as one: where its tokens begin, and where in it the spans do. Bytes, as tokens are made of them.
        lengths = self.length[numpy.concatenate([*ids, NONE])]
        starts = lengths.cumsum() - lengths + self.spaces[numpy.concatenate([*ids, NONE])]
        first, begin, places = 0, 0, []
        for text, some in zip(texts, spans, strict=True):
            place = (lambda at: at) if text.isascii() else (lambda at, text=text: len(text[:at].encode()))
            places += [begin + place(at) for span in some for at in span]
            begin += place(len(text))
        found, made = iter(starts.searchsorted(places).tolist()), []
        for each, some in zip(ids, spans, strict=True):
            made.append((each, [(next(found) - first, next(found) - first) for _ in some]))
            first += len(each)
        encoded = iter(made)
        return [next(encoded) if there else None for there in kept]

    def _changes(self, text: str) -> bool:
        return bool(self.normalizer and COMPOSES.search(text) and self.normalizer.normalize_str(text) != text)

    @classmethod
    def of(cls, backend) -> Tiktoken | None:
        """None for every other kind of tokenizer, and where the two rules could differ."""
        known = json.loads(backend.to_str())
        model, added = known["model"], known["added_tokens"]
        steps = (known["pre_tokenizer"] or {}).get("pretokenizers", [])
        plain = (
            model["type"] == "BPE"
            and not any(model[key] for key in ("dropout", "unk_token", "continuing_subword_prefix", "byte_fallback"))
            and not model["end_of_word_suffix"]
            and known["normalizer"] in (None, {"type": "NFC"})
            and [step["type"] for step in steps] == ["Split", "ByteLevel"]
            and (steps[0]["behavior"], steps[0]["invert"]) == ("Isolated", False)
            and (steps[1]["add_prefix_space"], steps[1]["use_regex"]) == (False, False)
            and not any(token[flag] for token in added for flag in ("single_word", "lstrip", "rstrip", "normalized"))
        )
        controls = {token["content"]: token["id"] for token in added}
        if not plain or any(longer.startswith(shorter) for shorter, longer in pairwise(sorted(controls))):
            return None
        # By letters: whatever else the vocabulary holds, no text is made of.
        of_bytes = frozenset(BYTE).issuperset
        letters = {word: token for word, token in model["vocab"].items() if of_bytes(word) and word not in controls}
        order = [letters.get("".join(pair)) for pair in model["merges"]]
        # tiktoken merges in the order of the words' ids, and takes a whole word at once.
        if (
            None in order
            or any(later < earlier for earlier, later in pairwise(order))
            or not BYTE.keys() <= letters.keys()
        ):
            return None
        if not model["ignore_merges"]:  # then no text is made of a word that no merge makes
            made = {*order}
            letters = {word: token for word, token in letters.items() if token in made or len(word) == 1}
        bytes_of = str.maketrans({letter: chr(byte) for letter, byte in BYTE.items()})
        words = {word.translate(bytes_of).encode("latin-1"): token for word, token in letters.items()}
        return cls(steps[0]["pattern"]["Regex"], words, controls, backend.normalizer, _trims(known["post_processor"]))


def _trims(processor: dict[str, Any] | None) -> bool:
    """Whether the last step leaves a token's spaces out of its place in the text."""
    steps = [] if processor is None else processor.get("processors", [processor])
    return any(step["type"] == "ByteLevel" and step["trim_offsets"] for step in steps)


def _bytes() -> dict[str, int]:
    """GPT-2's letters for bytes: what prints stands for itself, the rest for letters from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE = _bytes()
