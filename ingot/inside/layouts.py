"""Whether a mapping fits its columns; when it does not, what is there and which mapping would fit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

from ingot.inside.cleaning import Unfit, told
from ingot.inside.conversations import BESIDES, ROLES, turns_of
from ingot.inside.progress import StageError
from ingot.params.dataset import LAYOUTS, Columns

LOOKED_AT = 100  # rows whose turns are looked at before the work begins
SHOWN = 60  # characters of a value
NAMES, COLUMNS = 8, 30  # names of roles or fields, and of columns, that a message lists
STRINGS = ("string", "large_string", "string_view")
TEXT = (*STRINGS, "null")
# Columns' usual names, the likeliest first: seed columns of instruction sets on the hub.
USUAL = {
    "system": ("system", "system_prompt", "system_message"),
    "user": ("user", "user_prompt", "prompt", "question", "instruction", "query", "problem", "input", "text"),
    "assistant": ("assistant", "answer", "response", "output", "completion", "original_response", "solution", "label", "target", "chosen"),
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
        lacking = [
            (field, turn)
            for turn in some
            for field in (columns.role, columns.text)
            if field not in turn and not (field == columns.text and any(name in turn for name in BESIDES))
        ]
        faults += [f"its turns have no {field!r} but {_names(turn)}" for field, turn in lacking[:1]]
        turns += [] if lacking or not some else [some]
    if faults and not turns:  # a mapping that fits some rows is right; the others are unfit, each for itself
        raise StageError(f"{place}: {faults[0]}; {described(rows)}")
    strange = [[str(role) for turn in some if not _known(role := turn[columns.role], known)] for some in turns]
    if turns and all(strange):
        names = list(dict.fromkeys(role for some in strange for role in some))
        raise StageError(
            f"{place}: each row has turns of unknown roles: {_names(names)}; say what they mean under `roles`, such as "
            f"roles: {{{told(names[0])}: user}}, if that is what {columns.role!r} is to hold; {described(rows)}"
        )


def _known(role: Any, roles: dict[str, str]) -> bool:
    return isinstance(role, str) and role in roles


def described(rows) -> str:
    """The columns that are there, two rows of them, and the nearest mapping."""
    fits = suggestion(rows)
    return "\n".join(
        [
            f"there are {_names(rows.column_names, COLUMNS)}",
            *(
                f"  row {number}: "
                + ", ".join(f"{told(name)}: {_short(value)}" for name, value in islice(row.items(), COLUMNS))
                for number, row in enumerate(islice(_first(rows), 2))
            ),
            f"  what would fit: columns: {fits}" if fits else "  no layout that is known fits these columns",
        ]
    )


def suggestion(rows) -> str:
    """The nearest mapping, as it would stand in params.yaml; empty when none is near."""
    if fits := _of_turns(rows):
        return fits
    texts = [name for name in rows.column_names if _kind(rows, name) in STRINGS]
    for name, mapping in LAYOUTS.items():
        if "user" in mapping and set(Columns(**mapping).wanted()) <= set(texts):
            return name
    found = {}
    for role, usual in USUAL.items():
        by_case = {name.lower(): name for name in texts if name not in found.values()}
        if column := next((by_case[name] for name in usual if name in by_case), None):
            found[role] = column
    return _written(found) if {"user", "assistant"} <= found.keys() else ""


def _of_turns(rows) -> str:
    """The nearest mapping of lists of turns: one that holds questions and answers, else one of each."""
    lists = {}
    for column in rows.column_names:
        if column == "rejected":
            continue  # of a preference set: the answers that are not to be learnt
        for value in (row[column] for row in _first(rows)):
            try:
                turns = turns_of(value)
            except Unfit:
                break
            if turns:
                if fields := next((pair for pair in TURN if set(pair) <= turns[0].keys()), None):
                    roles = [turn.get(fields[0]) for turn in turns]
                    lists[column] = fields, [ROLES[role] if _known(role, ROLES) else "" for role in roles]
                break
    if not lists:
        return ""
    whole = [column for column, (_, roles) in lists.items() if "user" in roles and roles[-1] == "assistant"]
    asks = [column for column, (_, roles) in lists.items() if roles[-1] == "user"]
    answers = [column for column, (_, roles) in lists.items() if roles[0] == "assistant"]
    first = next(iter([*whole, *asks, *lists]))
    (role, text), _ = lists[first]
    if not whole and asks and answers and lists[answers[0]][0] == (role, text):
        return _written({"turns": [first, answers[0]], "role": role, "text": text})
    return _written({"turns": first, "role": role, "text": text})


def _written(mapping: dict[str, Any]) -> str:
    named = next((name for name, layout in LAYOUTS.items() if layout == mapping), None)
    lists = {key: f"[{', '.join(map(told, value))}]" for key, value in mapping.items() if isinstance(value, list)}
    return named or "{" + ", ".join(f"{key}: {lists.get(key) or told(value)}" for key, value in mapping.items()) + "}"


def _names(names: Iterable[str], most: int = NAMES) -> str:
    """At most so many of them, each cut."""
    listed = list(names)
    return ", ".join(map(told, listed[:most])) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")


def _kind(rows, column: str) -> str:
    kind = rows.features[column]
    return getattr(kind, "dtype", None) or type(kind).__name__


def _first(rows):
    return (rows[number] for number in range(min(LOOKED_AT, len(rows))))


def _short(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= SHOWN else value[:SHOWN] + " …")
    return told(json.dumps(value, ensure_ascii=False, default=str), SHOWN)
