"""Conversations as the model sees them: the template, its tokens, and which of them are trained."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.inside.progress import StageError

TEMPLATES = Path(__file__).parent / "templates"
# What ends a turn, and what a server must stop at, by template.
END_OF_TURN = {"chatml": "<|im_end|>"}
STOPS = {"chatml": ["<|im_start|>", "<|im_end|>"]}
# The roles that a template renders; of a turn, chatml's renders role and text and nothing else.
CARRIED = {"chatml": ("system", "user", "assistant", "tool")}

Message = dict[str, str]  # {"role": one of CARRIED, "content": text}


@dataclass(frozen=True)
class Encoded:
    """One conversation: `text`, its token `ids`, and `trained` (bool, same length): True where the loss is taken."""

    text: str
    ids: list[int]
    trained: list[bool]

    def labels(self) -> list[int]:
        """Ids where trained, -100 (which every loss ignores) elsewhere."""
        return [token if trained else -100 for token, trained in zip(self.ids, self.trained, strict=True)]


def jinja(template: str) -> str:
    """The chat template's source, without the file's final newline."""
    return (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8").rstrip("\n")


def go_template(template: str) -> str:
    """The same template in Go's text/template, as Ollama's Modelfile takes it; its final newline is part of it."""
    return (TEMPLATES / f"{template}.gotmpl").read_text(encoding="utf-8")


def load_tokenizer(folder: Path):
    """The fast tokenizer of a model folder; never fetches, never runs the folder's code."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def special_tokens(tokenizer) -> list[str]:
    """Every text that the tokenizer turns into one control token."""
    return sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def special_ids(tokenizer) -> set[int]:
    """The ids of those tokens."""
    return {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}


def check_template(tokenizer, template: str) -> None:
    """Raise StageError unless the template's markers are single control tokens of the vocabulary."""
    special = special_tokens(tokenizer)
    missing = [marker for marker in STOPS[template] if marker not in special]
    if missing:
        raise StageError(
            f"the base's tokenizer has no control token {' or '.join(missing)}, which the {template} template is made of; "
            "choose a base whose vocabulary has them (the Qwen2, Qwen2.5 and Qwen3 families do)"
        )


def render(tokenizer, messages: Sequence[Message], source: str, ask: bool = False) -> str:
    """The conversation as text by the template `source`; `ask` opens the assistant's turn."""
    return _render(tokenizer, [list(messages)], source, ask)[0]


def _render(tokenizer, conversations: list[list[Message]], source: str, ask: bool) -> list[str]:
    if not conversations:
        return []  # transformers looks at the first one
    return tokenizer.apply_chat_template(conversations, chat_template=source, tokenize=False, add_generation_prompt=ask)


def encode(tokenizer, messages: Sequence[Message], source: str, end_of_turn: str) -> Encoded:
    """Tokenise a conversation once, as a whole, and mark what is trained: each answer's words and its end token.

    An answer's place is what its turn adds to the text before it, so the template alone decides where it stands.
    """
    [(text, spans)] = _places(tokenizer, [messages], source, end_of_turn)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [any(start <= left < stop for start, stop in spans) for left, _ in encoded["offset_mapping"]]
    return Encoded(text, encoded["input_ids"], trained)


def _places(
    tokenizer, conversations: Sequence[Sequence[Message]], source: str, end_of_turn: str
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Each conversation's text, and where in it the answers stand with their end tokens."""
    answers = [
        (number, index)
        for number, messages in enumerate(conversations)
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    # All at once: what transformers does around the template takes far longer than the template.
    texts = _render(tokenizer, [list(messages) for messages in conversations], source, ask=False)
    befores = _render(tokenizer, [list(conversations[n][:i]) for n, i in answers], source, ask=True)
    inner = [(n, i) for n, i in answers if i + 1 < len(conversations[n])]
    uptos = dict(
        zip(
            inner,
            _render(tokenizer, [list(conversations[n][: i + 1]) for n, i in inner], source, ask=False),
            strict=True,
        )
    )
    spans: list[list[tuple[int, int]]] = [[] for _ in texts]
    for (number, index), before in zip(answers, befores, strict=True):
        upto = uptos.get((number, index), texts[number])
        if not (upto.startswith(before) and texts[number].startswith(upto)):
            raise StageError(
                "the chat template rewrites earlier turns, so the answer's place in the text is not defined"
            )
        stop = upto.rindex(end_of_turn, len(before)) + len(end_of_turn)
        spans[number].append((len(before), stop))
    return list(zip(texts, spans, strict=True))


@dataclass(frozen=True)
class Counted:
    """What `encode` would make of a conversation, in numbers."""

    tokens: int
    trained: int
    beyond: int  # of the trained ones, those that a cut at `longest` would lose
    control: int  # control tokens, whoever wrote them


class Counter:
    """Counts tokens of many conversations as `encode` makes them, without the objects that `encode` returns."""

    def __init__(self, tokenizer, template: str, longest: int):
        self.tokenizer, self.source, self.end, self.longest = tokenizer, jinja(template), END_OF_TURN[template], longest
        self.control = special_ids(tokenizer)
        self.by_roles: dict[tuple[str, ...], int] = {}

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[Counted]:
        if not conversations:
            return []
        placed = _places(self.tokenizer, conversations, self.source, self.end)
        encoded = self.tokenizer.backend_tokenizer.encode_batch([text for text, _ in placed], add_special_tokens=False)
        counted = []
        for found, (_, spans) in zip(encoded, placed, strict=True):
            ids, offsets = found.ids, found.offsets
            ranges = [(bisect_left(offsets, (start,)), bisect_left(offsets, (stop,))) for start, stop in spans]
            trained = sum(stop - start for start, stop in ranges)
            beyond = sum(max(0, stop - max(start, self.longest)) for start, stop in ranges)
            counted.append(Counted(len(ids), trained, beyond, sum(map(self.control.__contains__, ids))))
        return counted

    def forged(self, messages: Sequence[Message], counted: Counted) -> bool:
        """Whether there are control tokens that the template did not write."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self.by_roles:
            text = render(self.tokenizer, [{"role": role, "content": "x"} for role in roles], self.source)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self.by_roles[roles] = sum(map(self.control.__contains__, ids))
        return counted.control != self.by_roles[roles]
