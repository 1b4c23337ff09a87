"""Section `dataset`: from raw columns to a clean ChatML mix."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ingot.params.core import Prompt, Section, nearest
from ingot.sources.params import DatasetName

Role = Literal["system", "user", "assistant", "tool"]
# Mappings that have a name of their own: `columns: alpaca` stands for its line.
LAYOUTS: dict[str, dict[str, Any]] = {
    "alpaca": {"user": ["instruction", "input"], "assistant": "output"},
    "openai": {"turns": "messages", "role": "role", "text": "content"},
    "prompt": {"user": "prompt", "assistant": "completion"},
    "sharegpt": {"turns": "conversations", "role": "from", "text": "value"},
}


class Columns(Section):
    """Which columns of the raw rows hold which turn.

    A row is one exchange (`user`, `assistant`), or holds a list of turns (`turns`; `role` and `text` are the names that
    each turn has them under). Several columns for `user` are joined, empty ones left out; several for `turns` follow
    one another. `roles` says what the data's own names of roles mean, besides the usual ones.
    """

    system: str | None = None
    user: str | Annotated[list[str], Field(min_length=1)] | None = None
    assistant: str | None = None
    turns: str | Annotated[list[str], Field(min_length=1)] | None = None
    role: str | None = None
    text: str | None = None
    roles: dict[str, Role] | None = None

    @model_validator(mode="after")
    def one_layout(self) -> Columns:
        exchange, turns = [self.user, self.assistant], [self.turns, self.role, self.text]
        one, other = (turns, exchange) if any(turns) else (exchange, turns)
        if not all(one) or any(other) or (self.roles and not any(turns)):
            raise ValueError(
                "needs either `user` and `assistant` (columns of text), or `turns` (a column that holds a list), with "
                f"`role` and `text` (what each turn calls them); or one of the names {', '.join(LAYOUTS)}"
            )
        asked = [self.user] if isinstance(self.user, str) else self.user or []
        if self.assistant and self.assistant in (self.system, *asked):
            raise ValueError(
                f"`assistant` is {self.assistant!r}, which is a column of the question, too: "
                "the model would learn to echo it"
            )
        return self

    def lists(self) -> list[str]:
        """The columns that hold lists of turns."""
        return [self.turns] if isinstance(self.turns, str) else list(self.turns or [])

    def wanted(self) -> list[str]:
        """Every column that is named, each once."""
        several = [value if isinstance(value, list) else [value] for value in (self.user, self.turns)]
        return list(dict.fromkeys(name for name in (self.system, *several[0], self.assistant, *several[1]) if name))


def _named(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in LAYOUTS:
        raise ValueError(f"no layout is called {value!r}{nearest(value, list(LAYOUTS))}")
    return LAYOUTS[value]


class Part(Section):
    """One dataset's place in the mix."""

    share: Annotated[float, Field(gt=0, le=1)]
    columns: Annotated[Columns, BeforeValidator(_named)]
    # Used where a row brings no system prompt; without it the section's own `system` is.
    system: Prompt | None = None
    # Columns that say something of a row (a preference, images, tools) and are not to be read all the same; of turns
    # their fields: "messages[].loss". Without this such rows are refused.
    ignore: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def ignored_or_mapped(self) -> Part:
        fields = [
            f"{column}[].{field}" for column in self.columns.lists() for field in (self.columns.role, self.columns.text)
        ]
        if both := [column for column in self.ignore or [] if column in (*self.columns.wanted(), *fields)]:
            raise ValueError(f"`ignore` names {both[0]!r}, which `columns` reads: take it out of one of them")
        return self


Similarity = Annotated[float, Field(ge=0.5, le=1)]


class Clean(Section):
    """What is done to the texts, and which rows are not wanted. Each step counts what it drops, by reason."""

    # To one form of each character: NFC also joins the jamo of Hangul that a Mac has taken apart.
    unicode: Literal["none", "NFC", "NFKC"]
    # Category Cc but for tabs and newlines. Line ends of Windows and old Macs become newlines, unless all is kept.
    control_characters: Literal["keep", "remove", "refuse"]
    # The tokenizer's control tokens inside a text. They never reach the model as such: `escape` puts a space into them.
    control_tokens: Literal["refuse", "escape"]
    # Text that was decoded wrongly: U+FFFD, or UTF-8 read as Latin-1 or Windows-1252.
    mojibake: Literal["keep", "refuse"]
    # What a template or a loader was to replace: `{{name}}`, `<image>`. Not looked for in code, formulas and texts on
    # templates. `refuse` also reads a cell of CSV that is no more than `nan`, `NULL`, `None`, `#REF!` or the like as an
    # empty one.
    placeholders: Literal["keep", "refuse"]
    # A row with fewer trained tokens than this, ends of turns not counted, is not trained on.
    min_answer_tokens: Annotated[int, Field(ge=1)]
    # Conversations that are equal once cleaned.
    duplicates: Literal["keep", "drop"]
    # From which similarity on (share of common shingles, the system prompt left out) a row is dropped; null: never.
    near_duplicates: Similarity | None
    # The same between a row to train on and a held-out one.
    leaks: Similarity | None


class Dataset(Section):
    total_samples: Annotated[int, Field(ge=2)]
    # What to do when a set has fewer rows than its share asks for.
    short: Literal["fail", "all", "repeat"]
    # How much of each set's part of the mix is held out. Which rows may be is decided by a hash of each conversation
    # alone, for good: those in its lowest `eval_share` are never trained on, the others never held out, whatever else
    # the sets hold. Where a set has rows to spare its part is exact; where all are needed it is as many as fell to that
    # side.
    eval_share: Annotated[float, Field(gt=0, le=0.5)]
    join: str
    # What to do with a row that cannot be trained on: an empty turn, a broken order of roles, what `clean` refuses, too
    # many tokens. Duplicates are no faults of a row: they are always dropped and counted.
    unfit: Literal["fail", "drop"]
    clean: Clean
    system: Prompt
    mix: Annotated[dict[DatasetName, Part], Field(min_length=1)]

    @model_validator(mode="after")
    def shares_add_up(self) -> Dataset:
        total = sum(part.share for part in self.mix.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares in `mix` add up to {total:g}; they must add up to 1")
        return self
