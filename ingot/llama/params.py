"""Sections `f16`, `imatrix` and `gguf`: the 16-bit file, which weights matter most, and the quantised files."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ingot.params.core import Section

Plain = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K"]
# These round by what matters most, which section `imatrix` measures; without it llama-quantize refuses some and makes
# poor files of the rest.
ByImportance = Literal[
    "IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"
]  # fmt: skip
Quant = Literal[Plain, ByImportance]


class F16(Section):
    type: Literal["auto", "f16", "bf16"]


class Imatrix(Section):
    text: Literal["none", "train"]
    # At most; llama.cpp's advice is some tens of thousands.
    tokens: Annotated[int, Field(ge=2048)]
    device: Literal["cpu", "cuda"]


class Gguf(Section):
    # The first is the one that the Modelfile serves and the evaluation tries out.
    types: Annotated[list[Quant], Field(min_length=1)]

    @field_validator("types")
    @classmethod
    def once_each(cls, types: list[str]) -> list[str]:
        if len(set(types)) != len(types):
            raise ValueError("a type is named twice")
        return types
