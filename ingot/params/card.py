"""Section `card`: what the model card says that no stage can know."""

from typing import Annotated

from pydantic import Field

from ingot.params.core import Section

Line = Annotated[str, Field(pattern=r"^\S[^\n\r\u2028\u2029]*$", max_length=200)]


class Card(Section):
    # Of the model that was made: an SPDX identifier (MIT, Apache-2.0), or a name; null: not stated.
    license: Line | None
    # What it speaks, as the Hub writes it (ISO 639).
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]]
    # What it is meant for, and what not, as Markdown; null: the card says only what was measured.
    about: Annotated[str, Field(min_length=1)] | None
