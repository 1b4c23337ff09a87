"""Graphics cards: what cards.yaml knows of them, and which one this machine has."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from ingot.console.messages import Fault
from ingot.params.core import Section, faults_of, nearest, read

FILE = Path(__file__).parent / "cards.yaml"


class CardError(Fault):
    """A card that is not known, or a fault in cards.yaml."""


class Card(Section):
    """One kind of card. `prices`: provider, US dollars an hour, date, where it was read."""

    name: str
    memory: Annotated[int, Field(gt=0)]  # MiB
    tflops: Annotated[float, Field(gt=0)]  # 16-bit, dense, summed in float32
    bf16: bool
    prices: tuple[tuple[str, Annotated[float, Field(gt=0)], str, str], ...] = ()

    @property
    def bytes(self) -> int:
        return self.memory << 20

    @property
    def cheapest(self) -> tuple[str, float] | None:
        """Provider and dollars an hour."""
        return min(((provider, price) for provider, price, *_ in self.prices), key=lambda one: one[1], default=None)


@cache
def known() -> dict[str, Card]:
    """By name, in the file's order. Raises CardError with every fault of the file."""
    found, faults = {}, []
    for name, values in read(FILE).items():
        rows = [[*map(str, row[:1]), *row[1:2], *map(str, row[2:])] for row in (values or {}).get("prices", [])]
        try:
            values = {**(values or {}), "name": name, "prices": tuple(tuple(row) for row in rows)}
            found[name] = TypeAdapter(Card).validate_python(values)
        except ValidationError as error:
            faults += faults_of(name, error)
    if faults:
        raise CardError(f"{FILE.name}: {len(faults)} faults\n" + "\n".join(f"  {fault}" for fault in faults))
    return found


def find(name: str) -> Card:
    """The card of this name, as RTX 3090, rtx-3090 and rtx3090 alike. Raises CardError."""
    by_letters = {_letters(one): card for one, card in known().items()}
    if card := by_letters.get(_letters(name)) or by_letters.get(f"rtx{_letters(name)}"):
        return card
    raise CardError(
        f"GPU={name}: no such card{nearest(_letters(name), list(known()))}\nhint: add it to ingot/planning/cards.yaml"
    )


def here() -> Card | None:
    """This machine's first card by nvidia-smi: its own memory, and the speed of the known one of its name."""
    found = re.match(r"(.+), *(\d+)$", smi("name,memory.total"))
    return named(found[1], int(found[2])) if found else None


def smi(fields: str) -> str:
    """What nvidia-smi says of the first card, without units; empty where there is none."""
    asked = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.splitlines()[0] if said.returncode == 0 and said.stdout else ""


def named(name: str, memory: int) -> Card:
    """A card by the name and MiB that nvidia-smi gives; the slowest known speed where the name is not known."""
    letters = _letters(name)
    same = [card for card in known().values() if _letters(card.name.partition("-")[0]) in letters]
    like = max(same, key=lambda card: (len(card.name.partition("-")[0]), -abs(card.memory - memory)), default=None)
    if like:
        return like.model_copy(update={"memory": memory})
    slowest = min(card.tflops for card in known().values())
    return Card(name=name, memory=memory, tflops=slowest, bf16=True)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|geforce|tesla", "", name.lower())
