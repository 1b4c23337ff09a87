"""Section `gguf`: the quantised files."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ingot.params.core import Section

# Types that need no importance matrix.
Quant = Literal["Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K"]


class Gguf(Section):
    # The first is the one that the Modelfile serves and the evaluation tries out.
    types: Annotated[list[Quant], Field(min_length=1)]

    @field_validator("types")
    @classmethod
    def once_each(cls, types: list[str]) -> list[str]:
        if len(set(types)) != len(types):
            raise ValueError("a type is named twice")
        return types
