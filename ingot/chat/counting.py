"""How long each conversation is, in tokens, and whether a text forges a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from ingot.chat.encoding import END_OF_TURN, TEMPLATES, Message, Renderer, encode_text, jinja, render, special_ids
from ingot.chat.tokens import Encoder, Span


@dataclass(frozen=True)
class Counted:
    """What `encode` makes of a conversation, in numbers."""

    text: str
    tokens: int
    trained: int
    beyond: int  # of the trained ones, those that a cut at `longest` would lose
    control: int  # control tokens, whoever wrote them
    ids: numpy.ndarray  # uint32
    answers: list[Span]  # of the ids, those that are trained


class Counter:
    """Counts tokens of many conversations as `encode` makes them, without the objects that `encode` returns."""

    def __init__(self, tokenizer, template: str, longest: int):
        self.tokenizer, self.source, self.longest = tokenizer, jinja(template), longest
        self.rendered = Renderer(tokenizer, self.source, END_OF_TURN[template])
        self.encoder = Encoder(tokenizer.backend_tokenizer)
        self.words, control = TEMPLATES[template].words, special_ids(tokenizer)
        # Whether an id is a control token's. The last entry stands for all ids beyond.
        self.control = numpy.zeros(max(control, default=0) + 2, bool)
        self.control[[*control]] = True
        self.by_roles: dict[tuple[str, ...], int] = {}

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[Counted]:
        if not conversations:
            return []
        counted = []
        texts, spans = self.rendered(conversations)
        for text, (ids, ranges) in zip(texts, self.encoder(texts, spans), strict=True):
            trained = sum(stop - start for start, stop in ranges)
            beyond = sum(max(0, stop - max(start, self.longest)) for start, stop in ranges)
            counted.append(Counted(text, len(ids), trained, beyond, self._controls(ids), ids, ranges))
        return counted

    def _controls(self, ids: Sequence[int] | numpy.ndarray) -> int:
        return int(self.control.take(ids, mode="clip").sum())

    def forged(self, messages: Sequence[Message], counted: Counted) -> bool:
        """Whether there are control tokens, or marks that are words, that the template did not write."""
        if any(word in message["content"] for message in messages for word in self.words):
            return True
        roles = tuple(message["role"] for message in messages)
        if roles not in self.by_roles:
            text = render(self.tokenizer, [{"role": role, "content": "x"} for role in roles], self.source)
            self.by_roles[roles] = self._controls(encode_text(self.tokenizer, text).ids)
        return counted.control != self.by_roles[roles]
