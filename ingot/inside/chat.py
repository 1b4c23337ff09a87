"""Conversations as the model sees them: the template, its tokens, and which of them are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingot.inside.progress import StageError

TEMPLATES = Path(__file__).parent / "templates"
# What ends a turn, and what a server must stop at, by template.
END_OF_TURN = {"chatml": "<|im_end|>"}
STOPS = {"chatml": ["<|im_start|>", "<|im_end|>"]}

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


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
    return tokenizer.apply_chat_template(
        list(messages), chat_template=source, tokenize=False, add_generation_prompt=ask
    )


def encode(tokenizer, messages: Sequence[Message], source: str, end_of_turn: str) -> Encoded:
    """Tokenise a conversation once, as a whole, and mark what is trained: each answer's words and its end token.

    An answer's place is what its turn adds to the text before it, so the template alone decides where it stands.
    """
    text = render(tokenizer, messages, source)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:index], source, ask=True)
        upto = render(tokenizer, messages[: index + 1], source)
        if not (upto.startswith(before) and text.startswith(upto)):
            raise StageError(
                "the chat template rewrites earlier turns, so the answer's place in the text is not defined"
            )
        spans.append((len(before), len(before) + upto[len(before) :].rindex(end_of_turn) + len(end_of_turn)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [any(start <= left < stop for start, stop in spans) for left, _ in encoded["offset_mapping"]]
    return Encoded(text, encoded["input_ids"], trained)
