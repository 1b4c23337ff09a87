"""Whether a mapping fits its columns; when it does not, what is there and which mapping would fit."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from itertools import islice
from typing import Any

from ingot.console.progress import StageError
from ingot.data.cleaning import Unfit, column_name, shown, told
from ingot.data.conversations import BESIDES, CALLS, ROLES, bare, turns_of
from ingot.data.params import LAYOUTS, Columns
from ingot.data.unread import filled

LOOKED_AT = 100  # rows whose turns are looked at before the work begins
NAMES, COLUMNS = 8, 30  # names of roles or fields, and of columns, that a message lists
STRINGS = ("string", "large_string", "string_view")
TEXT = (*STRINGS, "null")
INTEGER = re.compile(r"u?int\d+")  # read as their digits
NUMBERED = (
    "answer",
    "response",
    "output",
    "completion",
    "solution",
    "target",
)  # whose integers are answers, not a class
# Columns' usual names, the likeliest first: seed columns of instruction sets on the hub.
USUAL = {
    "system": ("system", "system_prompt", "system_message"),
    "user": ("user", "user_prompt", "prompt", "question", "instruction", "query", "problem", "input", "text"),
    "assistant": (
        "assistant", "answer", "response", "output", "completion", "original_response", "solution", "label", "target",
        "chosen",
    ),
}  # fmt: skip
# What belongs to a question where it has its own column. Not `text`, which in Alpaca is the whole row, answer included.
BESIDE = ("input", "context", "passage", "document", "article", "paragraph", "background", "evidence")
MUCH = 0.1  # part of the rows: a column with text in so many is not left out without a word
TURN = (
    ("role", "content"),
    ("from", "value"),
    ("role", "parts"),
    ("role", "value"),
    ("role", "text"),
    ("speaker", "text"),
)


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
    """What the column holds that is neither text nor integers, and what to do. Where some rows have text the mapping is
    right, and others are unfit, each for itself.
    """
    kind, names = _kind(rows, column), getattr(rows.features[column], "names", None)
    if names:
        return f"the numbers of classes, not text: write their names ({_names(names)})"
    if kind in TEXT or INTEGER.fullmatch(kind):
        return ""
    values = [value for row in _first(rows) if (value := row[column]) is not None]
    if kind == "Json" and (not values or any(_readable(value) for value in values)):
        return ""
    first = values[0] if values else None
    way = "write it as one text"
    if isinstance(first, bool):
        way = 'write it as text, in the words that the model is to say, such as "yes" and "no"'
    elif isinstance(first, float):
        way = 'write it as text, with the digits that the model is to say, such as "0.50" (or as integers, if all are)'
    elif isinstance(first, list | dict):
        way = "write it as one text; a list of turns is mapped by `turns`, `role` and `text`"
    return f"{'other values' if kind == 'Json' else kind}, not text; the first is {shown(first)}: {way}"


def _readable(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _check_turns(rows, place: str, column: str, columns: Columns) -> None:
    known, faults, turns = {*ROLES, *CALLS, *(columns.roles or {})}, [], []
    for row in _first(rows):
        try:
            some = turns_of(bare(row[column]))
        except Unfit as error:
            faults.append(f"{error} ({shown(error.detail)})")
            continue
        lacking = [
            (field, turn)
            for turn in some
            for field in (columns.role, columns.text)
            if field not in turn and not (field == columns.text and any(name in turn for name in BESIDES))
        ]
        for field, turn in lacking[:1]:
            there = any(field in whole for whole in turns_of(row[column]))
            faults.append(
                f"its turns {f'hold nothing in {field!r}' if there else f'have no {field!r} but {_names(turn)}'}"
            )
        turns += [] if lacking or not some else [some]
    if faults and not turns:  # a mapping that fits some rows is right; the others are unfit, each for itself
        raise StageError(f"{place}: {faults[0]}; {described(rows)}")
    strange = [[str(role) for turn in some if not _known(role := turn[columns.role], known)] for some in turns]
    if turns and all(strange):
        names = list(dict.fromkeys(role for some in strange for role in some))
        raise StageError(
            f"{place}: each row has turns of unknown roles: {_names(names)}; say what each means under `roles` "
            f"(system, user, assistant or tool), such as roles: {{{told(names[0])}: user}} where {told(names[0])} "
            f"asks, if that is what {columns.role!r} is to hold; {described(rows)}"
        )


def _known(role: Any, roles: Container[str]) -> bool:
    return isinstance(role, str) and role in roles


def described(rows) -> str:
    """The columns that are there, two rows of them, and the nearest mapping, with what it does not read."""
    found, form = suggested(rows), _form(rows)
    fits, lost = (_written(found), _lost(rows, found)) if found else ("", "")
    return "\n".join(
        [
            f"there are {_names(rows.column_names, COLUMNS)}",
            *(
                f"  row {number}: "
                + ", ".join(f"{column_name(name)}: {shown(value)}" for name, value in islice(row.items(), COLUMNS))
                for number, row in enumerate(islice(_first(rows), 2))
            ),
            *([f"  {form}"] if form else []),
            *([f"  the mapping below does not read {lost}"] if lost else []),
            f"  what would fit: columns: {fits}" if fits else "  no layout that is known fits these columns",
        ]
    )


def suggestion(rows) -> str:
    """The nearest mapping, as it would stand in params.yaml; empty when none is near."""
    return _written(found) if (found := suggested(rows)) else ""


def suggested(rows) -> dict[str, Any]:
    """The nearest mapping; empty when none is near."""
    if fits := _of_turns(rows):
        return fits
    texts = [
        name
        for name in rows.column_names
        if (kind := _kind(rows, name)) in STRINGS or (INTEGER.fullmatch(kind) and name.lower() in NUMBERED)
    ]
    found: dict[str, Any] = next(
        (
            dict(mapping)
            for mapping in LAYOUTS.values()
            if "user" in mapping and set(Columns(**mapping).wanted()) <= set(texts)
        ),
        {},
    )
    for role, usual in USUAL.items():
        taken = Columns.model_construct(**found).wanted()
        by_case = {name.lower(): name for name in texts if name not in taken}
        column = next((by_case[name] for name in usual if name in by_case), None)
        if column and role not in found and (role != "system" or "user" not in found or _much(rows, column)):
            found[role] = column
    if not {"user", "assistant"} <= found.keys():
        return {}
    asked = found["user"] if isinstance(found["user"], list) else [found["user"]]
    taken = Columns.model_construct(**found).wanted()
    more = [name for name in texts if name.lower() in BESIDE and name not in taken and _much(rows, name)]
    return found | ({"user": [*asked, *more]} if more else {})


def _much(rows, column: str) -> bool:
    """Whether so many rows hold something in the column that to leave it out is to lose it."""
    return int(filled(rows, column).sum()) >= MUCH * len(rows)


def _lost(rows, mapping: dict[str, Any]) -> str:
    """The columns with text in a tenth of the rows or more that the mapping leaves out: names, rows, what they hold."""
    left = [name for name in rows.column_names if name not in Columns(**mapping).wanted()]
    texts = [name for name in left if _kind(rows, name) in STRINGS or _text_in(rows, name)]
    counts = {name: int(filled(rows, name).sum()) for name in texts}
    much = {name: count for name, count in counts.items() if count >= MUCH * len(rows)}
    more = f" and {len(much) - NAMES} more" if len(much) > NAMES else ""
    listed = [f"{told(name)} ({count:,} of {len(rows):,} rows)" for name, count in islice(much.items(), NAMES)]
    return ", ".join(listed) + more


def _text_in(rows, column: str) -> bool:
    """Whether the column, which is not of texts alone, holds any text or lists."""
    return any(isinstance(row[column], str | list | dict) for row in _first(rows))


def _form(rows) -> str:
    """What the rows are, where they are something that is known and not read."""
    names = set(rows.column_names)
    if {"role", "content"} <= names or {"from", "value"} <= names:
        return (
            "each row is a turn: write a row for each conversation, its turns as a list: "
            "{messages: [{role, content}, …]}"
        )
    if "instances" in names:
        return "`instances` holds several inputs and outputs a row: write a row for each: {instruction, input, output}"
    if "mapping" in names and {"title", "create_time"} & names:
        return (
            "this is an export of ChatGPT, whose turns are a tree: write each path as a list: "
            "{messages: [{role, content}, …]}"
        )
    if {"custom_id", "body"} <= names:
        return (
            "each row is a request of OpenAI's batches: write its `body` as the row: {messages: [{role, content}, …]}"
        )
    if "preferred_output" in names or names == {"chosen", "rejected"}:
        return (
            "each row is a preference between two answers: write the question and the better one: {prompt, completion}"
        )
    if names == {"text"}:
        return "each row is one text and no conversation: a question and an answer are what is trained on"
    return ""


def _of_turns(rows) -> dict[str, Any]:
    """The nearest mapping of lists of turns: one that holds questions and answers, else one of each."""
    lists = {}
    for column in rows.column_names:
        if "rejected" in column.lower() or column in ("tools", "functions", "instances"):
            continue  # of a preference set: the answers that are not to be learnt; what is no turns
        for value in (row[column] for row in _first(rows)):
            try:
                turns = turns_of(bare(value))
            except Unfit:
                break
            if turns:
                if fields := next((pair for pair in TURN if set(pair) <= turns[0].keys()), None):
                    roles = [turn.get(fields[0]) for turn in turns]
                    lists[column] = fields, [ROLES[role] if _known(role, ROLES) else "" for role in roles]
                break
    if not lists:
        return {}
    whole = [column for column, (_, roles) in lists.items() if "user" in roles and roles[-1] == "assistant"]
    asks = [column for column, (_, roles) in lists.items() if roles[-1] == "user"]
    answers = [column for column, (_, roles) in lists.items() if roles[0] == "assistant"]
    first = next(iter([*whole, *asks, *lists]))
    (role, text), _ = lists[first]
    both = not whole and asks and answers and lists[answers[0]][0] == (role, text)
    by_case = {name.lower(): name for name in rows.column_names if _kind(rows, name) in STRINGS and _much(rows, name)}
    system = next((by_case[name] for name in USUAL["system"] if name in by_case), None)
    mapping = {"turns": [first, answers[0]] if both else first, "role": role, "text": text}
    return ({"system": system} if system else {}) | mapping


def _written(mapping: dict[str, Any]) -> str:
    named = next((name for name, layout in LAYOUTS.items() if layout == mapping), None)
    lists = {
        key: f"[{', '.join(map(column_name, value))}]" for key, value in mapping.items() if isinstance(value, list)
    }
    return (
        named
        or "{" + ", ".join(f"{key}: {lists.get(key) or column_name(value)}" for key, value in mapping.items()) + "}"
    )


def _names(names: Iterable[str], most: int = NAMES) -> str:
    """At most so many of them, each cut."""
    listed = list(names)
    return ", ".join(map(column_name, listed[:most])) + (
        f" and {len(listed) - most:,} more" if len(listed) > most else ""
    )


def _kind(rows, column: str) -> str:
    kind = rows.features[column]
    return getattr(kind, "dtype", None) or type(kind).__name__


def _first(rows):
    return (rows[number] for number in range(min(LOOKED_AT, len(rows))))
