"""JSON as it stands in a file: numbers exactly, no key twice, what is odd kept as its text."""

from __future__ import annotations

import json
import math
from typing import Any

DEEP = "more lists and objects within each other than can be read (some 900): remove the row, or that key of it"


class Unfit(Exception):
    """What Python's json takes, and no column holds."""


class Odd(str):
    """A number that no column holds, as it is written."""


def _integer(digits: str) -> int:
    if len(digits) > 20 or (len(digits) > 18 and not -(2**63) <= int(digits) < 2**64):
        raise Unfit(f"the number {digits[:40]}, which is more than 64 bits: quote it, as text")
    return int(digits)


def _float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise Unfit(f"the number {digits[:40]}, which is more than a float holds: quote it, as text")
    return value


def _constant(word: str) -> None:
    raise Unfit(f"{word}, which JSON has not: write null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys: set[str] = set()
        twice = next(key for key, _ in pairs if key in keys or keys.add(key))
        raise Unfit(f"the key {twice[:40]!r} twice in one object: remove one, for only one of them would be read")
    return made


def _odd(number: Any) -> Any:
    """What reads a number, or keeps it as Odd."""

    def read(digits: str) -> Any:
        try:
            return number(digits)
        except Unfit:
            return Odd(digits)

    return read


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
LENIENT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_odd(_integer), parse_float=_odd(_float), parse_constant=Odd
)


def parsed(text: str) -> Any:
    """JSON text that stands in a column. Raises ValueError, also for a key that is there twice."""
    try:
        value, end = json.JSONDecoder(object_pairs_hook=_object).raw_decode(text.strip())
    except Unfit as error:
        raise ValueError(str(error)) from None
    if end != len(text.strip()):
        raise ValueError("more than one value")
    return value
