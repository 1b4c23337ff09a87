"""Section `modelfile`: how the model is served."""

from typing import Annotated

from pydantic import Field

from ingot.params.core import Prompt, Section


class Modelfile(Section):
    system: Prompt
    temperature: Annotated[float, Field(ge=0, le=2)]
    num_predict: Annotated[int, Field(ge=1, le=1_048_576)]
    num_ctx: Annotated[int, Field(ge=16, le=1_048_576)]
