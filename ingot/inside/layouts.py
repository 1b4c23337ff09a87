"""Whether a mapping fits its columns; when it does not, what is there and which mapping would fit."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from ingot.inside.cleaning import Unfit
from ingot.inside.conversations import ROLES, turns_of
from ingot.inside.progress import StageError
from ingot.params.dataset import LAYOUTS, Columns

LOOKED_AT = 100  # rows whose turns are looked at before the work begins
SHOWN = 60  # characters of a value
TEXT = ("string", "large_string", "null")
# Columns' usual names, the likeliest first: seed columns of instruction sets on the hub.
USUAL = {
    "system": ("system", "system_prompt", "system_message"),
    "user": ("user", "user_prompt", "prompt", "question", "instruction", "query", "problem", "input", "text"),
    "assistant": ("assistant", "answer", "response", "output", "completion", "original_response", "solution", "label", "target"),
}  # fmt: skip
TURN = (("role", "content"), ("from", "value"), ("role", "value"), ("role", "text"), ("speaker", "text"))


def check(rows, name: str, columns: Columns) -> None:
    """Raise StageError unless every mapped column is there and holds what the mapping takes it for."""
    place = f"dataset.mix.{name}.columns"
    if not len(rows):
        raise StageError(f"raw.datasets.{name}: has no rows")
    lists = [columns.turns] if isinstance(columns.turns, str) else columns.turns or []
    for column in columns.wanted():
        if column not in rows.column_names:
            raise StageError(f"{place}: no column {column!r}; {described(rows)}")
        if column in lists:
            _check_turns(rows, f"{place}: column {column!r}", column, columns)
        elif fault := _no_text(rows, column):
            raise StageError(f"{place}: column {column!r} holds {fault}; {described(rows)}")


def _no_text(rows, column: str) -> str:
    """What the column holds that is no text. Where some rows have text the mapping is right, and others are unfit, each for itself."""
    kind = _kind(rows, column)
    if kind in TEXT:
        return ""
    values = [value for row in _first(rows) if (value := row[column]) is not None]
    if kind == "Json" and (not values or any(isinstance(value, str) for value in values)):
        return ""
    return (
        f"{'other values' if kind == 'Json' else kind}, not text; the first is {_short(values[0] if values else None)}"
    )


def _check_turns(rows, place: str, column: str, columns: Columns) -> None:
    known, faults, turns = ROLES | (columns.roles or {}), [], []
    for row in _first(rows):
        try:
            some = turns_of(row[column])
        except Unfit as error:
            faults.append(f"{error} ({_short(error.detail)})")
            continue
        lacking = [(field, turn) for turn in some for field in (columns.role, columns.text) if field not in turn]
        faults += [f"its turns have no {field!r} but {', '.join(turn)}" for field, turn in lacking[:1]]
        turns += [] if lacking else some
    if faults and not turns:  # a mapping that fits some rows is right; the others are unfit, each for itself
        raise StageError(f"{place}: {faults[0]}; {described(rows)}")
    names = list(dict.fromkeys(str(turn[columns.role]) for turn in turns))
    if turns and not any(role in known for role in names):
        raise StageError(
            f"{place}: its turns' roles are {', '.join(names)}, of which none is known; say what they mean under `roles`, "
            f"such as roles: {{{names[0]}: user}}"
        )


def described(rows) -> str:
    """The columns that are there, two rows of them, and the nearest mapping."""
    fits = suggestion(rows)
    return "\n".join(
        [
            f"there are {', '.join(rows.column_names)}",
            *(
                f"  row {number}: " + ", ".join(f"{name}: {_short(value)}" for name, value in row.items())
                for number, row in enumerate(islice(_first(rows), 2))
            ),
            f"  what would fit: columns: {fits}" if fits else "  no layout that is known fits these columns",
        ]
    )


def suggestion(rows) -> str:
    """The nearest mapping, as it would stand in params.yaml; empty when none is near."""
    for column in rows.column_names:
        for value in (row[column] for row in _first(rows)):
            try:
                turns = turns_of(value)
            except Unfit:
                break
            if turns:
                fields = next((pair for pair in TURN if set(pair) <= turns[0].keys()), None)
                if fields:
                    return _written({"turns": column, "role": fields[0], "text": fields[1]})
                break
    texts = [name for name in rows.column_names if _kind(rows, name) in ("string", "large_string")]
    for name, mapping in LAYOUTS.items():
        if "user" in mapping and set(Columns(**mapping).wanted()) <= set(texts):
            return name
    found = {}
    for role, usual in USUAL.items():
        by_case = {name.lower(): name for name in texts if name not in found.values()}
        if column := next((by_case[name] for name in usual if name in by_case), None):
            found[role] = column
    return _written(found) if {"user", "assistant"} <= found.keys() else ""


def _written(mapping: dict[str, str]) -> str:
    named = next((name for name, layout in LAYOUTS.items() if layout == mapping), None)
    return named or "{" + ", ".join(f"{key}: {value}" for key, value in mapping.items()) + "}"


def _kind(rows, column: str) -> str:
    kind = rows.features[column]
    return getattr(kind, "dtype", None) or type(kind).__name__


def _first(rows):
    return (rows[number] for number in range(min(LOOKED_AT, len(rows))))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + " …") if isinstance(value, str) else text[: SHOWN + 20]
