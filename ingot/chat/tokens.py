"""Token ids of many texts, and which of them stand in given parts of each.

A byte-level BPE vocabulary, as Qwen, Llama 3 and Phi-4 have it, is encoded by tiktoken: the same ids in a quarter of the
time. Its rule differs from that of the base's own tokenizer where a vocabulary was not made by its merges, so it is taken
only for files that say the same to both, after it has encoded some of the run's own texts equally.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

FEW = 2_000  # texts that are encoded before tiktoken is asked: it takes seconds to start
Span = tuple[int, int]  # of a text's characters, or of its tokens: the first, and the one after the last


class Encoder:
    """Encodes texts as `tokenizer` (a fast one of transformers) does, without adding special tokens."""

    def __init__(self, tokenizer):
        self.slow, self.fast, self.seen = tokenizer.backend_tokenizer, None, 0

    def __call__(self, texts: Sequence[str], spans: Sequence[list[Span]]) -> list[tuple[list[int], list[Span]]]:
        """Each text's ids, and for each of its spans of characters the span of tokens that begin in it."""
        if not self.fast:
            found = self._slowly(texts, spans)
            before = self.seen
            self.seen += len(texts)
            if before < FEW <= self.seen and (fast := Tiktoken.of(self.slow)):
                agreed = all(
                    fast.encode(*each) in (None, slow) for *each, slow in zip(texts, spans, found, strict=True)
                )
                self.fast = fast if agreed else None
            return found
        found = [self.fast.encode(*each) for each in zip(texts, spans, strict=True)]
        other = [place for place, encoded in enumerate(found) if encoded is None]
        slow = self._slowly([texts[place] for place in other], [spans[place] for place in other])
        for place, encoded in zip(other, slow, strict=True):
            found[place] = encoded
        return found

    def _slowly(self, texts: Sequence[str], spans: Sequence[list[Span]]) -> list[tuple[list[int], list[Span]]]:
        made = []
        for found, wanted in zip(self.slow.encode_batch(list(texts), add_special_tokens=False), spans, strict=True):
            offsets = found.offsets
            made.append(
                (found.ids, [(bisect_left(offsets, (start,)), bisect_left(offsets, (stop,))) for start, stop in wanted])
            )
        return made


class Tiktoken:
    """A byte-level BPE tokenizer, encoded by tiktoken."""

    def __init__(self, pattern: str, words: dict[bytes, int], controls: dict[str, int], normalizer, trim: bool):
        import tiktoken

        self.encoding = tiktoken.Encoding("base", pat_str=pattern, mergeable_ranks=words, special_tokens=controls)
        self.normalizer = normalizer
        everything = words | {control.encode(): token for control, token in controls.items()}
        self.length = {token: len(word) for word, token in everything.items()}
        # Where `trim_offsets` is set, a token begins after its spaces.
        self.spaces = {token: len(word) - len(word.lstrip(b" ")) for word, token in words.items()} if trim else {}

    def encode(self, text: str, spans: list[Span]) -> tuple[list[int], list[Span]] | None:
        """None for a text that would be changed first."""
        if self.normalizer and self.normalizer.normalize_str(text) != text:
            return None
        ids = self.encoding.encode(text, allowed_special="all")
        starts = list(accumulate(map(self.length.__getitem__, ids), initial=0))
        if self.spaces:
            starts = [start + self.spaces.get(token, 0) for start, token in zip(starts, ids, strict=False)]
        else:
            starts.pop()
        place = (lambda at: at) if text.isascii() else (lambda at: len(text[:at].encode()))
        return ids, [(bisect_left(starts, place(start)), bisect_left(starts, place(stop))) for start, stop in spans]

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
        letters = {
            word: token for word, token in model["vocab"].items() if BYTE.keys() >= {*word} and word not in controls
        }
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
        words = {bytes(map(BYTE.__getitem__, word)): token for word, token in letters.items()}
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
