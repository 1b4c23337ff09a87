"""Section `evaluation`: what is measured of every step, and what the final file must show."""

from __future__ import annotations

import re
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


class Score(Section):
    """A task score: the share of held-out questions answered right, of the base's own file and of the final one."""

    # What of an answer is compared with the same of the expected one: its last number, all, or what `pattern` finds.
    match: Literal["number", "exact", "regex"]
    # With match regex: a regular expression with one group. Its last match in a text is compared.
    pattern: str | None
    # How many held-out questions are asked, at most.
    prompts: Annotated[int, Field(ge=1)]
    # Tokens of an answer, at most: a base that was never taught to end goes on to this limit at every question.
    tokens: Annotated[int, Field(ge=1)]
    # The least score of the final file; below it the stage fails.
    least: Share | None

    @model_validator(mode="after")
    def pattern_fits(self) -> Score:
        if self.match != "regex":
            if self.pattern is not None:
                raise ValueError(
                    f"pattern is not used with match {self.match} ({self.pattern!r})\n"
                    "hint: set pattern to null, or match to regex"
                )
            return self
        if self.pattern is None:
            raise ValueError(
                "match regex needs a pattern (null)\n"
                "hint: write one with one group, such as '#### (.+)', or set match to number"
            )
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"pattern is no regular expression ({self.pattern!r}: {error})\n"
                "hint: correct it, or set match to number"
            ) from None
        if groups != 1:
            raise ValueError(
                f"pattern has {groups} groups, not one ({self.pattern!r})\n"
                "hint: put ( ) around the part to compare and (?: ) around others"
            )
        return self


class Evaluation(Section):
    device: Literal["cpu", "cuda"]
    # How many held-out conversations are measured, and their questions put to the final file, at most.
    rows: Annotated[int, Field(ge=1)]
    # How many training prompts the final file is asked; how many it must answer word for word and end by itself.
    prompts: Annotated[int, Field(ge=0)]
    word_for_word: Annotated[int, Field(ge=0)]
    # Whether the merge into the other base (original, nf4) is made and measured, too.
    merge_bases: bool
    # The task score, for datasets whose answers can be checked; null: off.
    score: Score | None
    limits: Limits

    @model_validator(mode="after")
    def within_reach(self) -> Evaluation:
        if self.word_for_word > self.prompts:
            raise ValueError(f"word_for_word ({self.word_for_word}) cannot exceed prompts ({self.prompts})")
        return self
