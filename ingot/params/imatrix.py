"""Section `imatrix`: which weights matter most, measured for the quantiser."""

from typing import Annotated, Literal

from pydantic import Field

from ingot.params.core import Section


class Imatrix(Section):
    text: Literal["none", "train"]
    # At most; llama.cpp's advice is some tens of thousands.
    tokens: Annotated[int, Field(ge=2048)]
    device: Literal["cpu", "cuda"]
