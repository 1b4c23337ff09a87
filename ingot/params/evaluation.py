"""Section `evaluation`: what is measured of every step, and what the final file must show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ingot.params.core import Section

Share = Annotated[float, Field(ge=0, le=1)]
# In nats a token. Models that have nothing in common are some tens apart.
Divergence = Annotated[float, Field(gt=0, le=1000)]


class Limits(Section):
    """Beyond any of these the stage fails. Divergences are means over held-out text, each to the step before."""

    merged_kl: Divergence
    f16_kl: Divergence
    quantised_kl: Divergence  # every type
    # The least share of tokens at which a step's likeliest one is that of the step before.
    same_top: Share
    # The least share of held-out prompts whose answer ends by itself.
    ended: Share


class Evaluation(Section):
    device: Literal["cpu", "cuda"]
    # How many held-out conversations are measured, and their questions put to the final file, at most.
    rows: Annotated[int, Field(ge=1)]
    # How many training prompts the final file is asked; how many it must answer word for word and end by itself.
    prompts: Annotated[int, Field(ge=0)]
    word_for_word: Annotated[int, Field(ge=0)]
    # Whether the merge into the other base (original, nf4) is made and measured, too.
    merge_bases: bool
    limits: Limits

    @model_validator(mode="after")
    def within_reach(self) -> Evaluation:
        if self.word_for_word > self.prompts:
            raise ValueError(f"word_for_word ({self.word_for_word}) cannot exceed prompts ({self.prompts})")
        return self
