"""Section `evaluation`: what the final file must show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ingot.params.core import Section


class Evaluation(Section):
    device: Literal["cpu", "cuda"]
    # How many held-out conversations the losses are measured on, at most.
    rows: Annotated[int, Field(ge=1)]
    # How many training prompts the final file is asked; how many it must answer word for word and end by itself.
    prompts: Annotated[int, Field(ge=0)]
    word_for_word: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def within_reach(self) -> Evaluation:
        if self.word_for_word > self.prompts:
            raise ValueError(f"word_for_word ({self.word_for_word}) cannot exceed prompts ({self.prompts})")
        return self
