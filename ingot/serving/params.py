"""Sections `modelfile` and `card`: how the model is served, and what its card says that no stage can know."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

from ingot.params.core import Prompt, Section

# Ollama's reader drops every character that Go's unicode.IsPrint and IsSpace both deny, silently.
DROPPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
KEPT = "\t\n "
# What any of the templates marks turns with (ingot/chat/encoding.py), and control tokens of their kinds.
MARK = re.compile(r"<\|\w+\|>|<｜[^｜<>]+｜>|<(start|end)_of_turn>|</?s>|<[be]os>|\[/?INST\]|<</?SYS>>")
Line = Annotated[str, Field(pattern=r"^\S[^\n\r\u2028\u2029]*$", max_length=200)]


def writable(text: str) -> str:
    """The text, if a Modelfile can hold it between triple quotes. Raises ValueError that names what it cannot."""
    if '"""' in text:
        raise ValueError('the text holds """, which a Modelfile has no way to write: remove it')
    for character in text:
        if character not in KEPT and unicodedata.category(character) in DROPPED:
            raise ValueError(
                f"the text holds {unicodedata.name(character, 'a control character')} "
                f"(U+{ord(character):04X}), which Ollama drops silently: replace it"
            )
    return text


def plain(text: str) -> str:
    """The text, if it forges no turn."""
    if marker := MARK.search(text):
        raise ValueError(
            f"the text holds {marker[0]}, which would be read as the end or beginning of a turn: remove it"
        )
    return text


class Modelfile(Section):
    system: Annotated[Prompt, AfterValidator(writable), AfterValidator(plain)]
    temperature: Annotated[float, Field(ge=0, le=2)]
    repeat_penalty: Annotated[float, Field(ge=0.5, le=2)]
    num_predict: Annotated[int, Field(ge=1, le=1_048_576)]
    num_ctx: Annotated[int, Field(ge=16, le=1_048_576)]


class Card(Section):
    # Of the model that was made: an SPDX identifier (MIT, Apache-2.0), or a name; null: not stated.
    license: Line | None
    # What it speaks, as the Hub writes it (ISO 639).
    languages: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]]
    # What it is meant for, and what not, as Markdown; null: the card says only what was measured.
    about: Annotated[str, Field(min_length=1)] | None
