"""Section `dataset`: from raw columns to a ChatML mix."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ingot.params.core import Prompt, Section
from ingot.params.raw import DatasetName


class Columns(Section):
    """Which columns of the raw rows hold which turn. Several columns for `user` are joined, empty ones left out."""

    system: str | None = None
    user: str | Annotated[list[str], Field(min_length=1)]
    assistant: str


class Part(Section):
    """One dataset's place in the mix."""

    share: Annotated[float, Field(gt=0, le=1)]
    columns: Columns
    # Used where a row brings no system prompt; without it the section's own `system` is.
    system: Prompt | None = None


class Dataset(Section):
    total_samples: Annotated[int, Field(ge=2)]
    # What to do when a set has fewer rows than its share asks for.
    short: Literal["fail", "all", "repeat"]
    eval_share: Annotated[float, Field(gt=0, le=0.5)]
    join: str
    # What to do with a row that cannot be trained on: an empty turn, a control token in its text, too many tokens.
    unfit: Literal["fail", "drop"]
    system: Prompt
    mix: Annotated[dict[DatasetName, Part], Field(min_length=1)]

    @model_validator(mode="after")
    def shares_add_up(self) -> Dataset:
        total = sum(part.share for part in self.mix.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares in `mix` add up to {total:g}; they must add up to 1")
        return self
