"""Recipes: a short file that says what a build has of its own, and recipes/defaults.yaml, which says the rest.

`make use` writes the whole params.yaml from the two, so that every choice stands in it, with the comments of both.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from ingot.exact.files import write_text
from ingot.params.core import PARAMS_FILE, ParamsError, nearest, read
from ingot.planning.validation import Params, checked

DEFAULTS = Path(__file__).parents[2] / "recipes/defaults.yaml"
# What a recipe says whole: its names are its own, or one choice forbids the keys of another.
WHOLE = ("raw.datasets", "dataset.mix", "base", "evaluation.score")
OWN = (
    "name",
    "template",
    "max_seq_length",
    "raw.datasets",
    "base",
    "dataset.total_samples",
    "dataset.system",
    "dataset.mix",
)


def params(recipe: Path) -> Params:
    """What a recipe asks for. Raises ParamsError with every fault at once."""
    return parsed(expanded(recipe), recipe)


def parsed(text: str, recipe: Path) -> Params:
    """The same of what `expanded` has made of it."""
    return checked(YAML(typ="safe").load(text), recipe)


def use(recipe: Path) -> tuple[Params, Path | None]:
    """Write the recipe, expanded, to params.yaml. Returns its params, and where those in place before are kept, if they
    were others. Raises ParamsError.
    """
    if not recipe.is_file():
        known = sorted(str(path) for path in Path("recipes").glob("*.yaml") if path.name != DEFAULTS.name)
        raise ParamsError([f"no such recipe{nearest(str(recipe), known)}"], recipe)
    text = expanded(recipe)
    params, wanted = parsed(text, recipe), text.encode()
    before = PARAMS_FILE.read_bytes() if PARAMS_FILE.is_file() else None
    if before in (None, wanted):
        PARAMS_FILE.write_bytes(wanted)
        return params, None
    # Nothing is overwritten: the recipe may be the params.yaml.old of another time.
    names = (Path(f"params.yaml.old{number or ''}") for number in itertools.count())
    kept = next(name for name in names if not name.exists() or name.read_bytes() == before)
    kept.write_bytes(before)
    PARAMS_FILE.write_bytes(wanted)
    return params, kept


def expanded(recipe: Path) -> str:
    """The whole params.yaml of a recipe; a recipe that has all sections is that itself.

    Raises ParamsError for one that cannot be read, or lacks what is its own to say.
    """
    text = recipe.read_text(encoding="utf-8") if read(recipe) else ""  # read has bounds, and names what is no YAML
    return text if Params.model_fields.keys() <= read(recipe).keys() else laid(text, recipe)


def laid(text: str, recipe: Path) -> str:
    """The text of a short recipe over the defaults. Raises ParamsError where it lacks what is its own to say."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 120
    own, whole = yaml.load(text), yaml.load(DEFAULTS.read_text(encoding="utf-8"))
    _lay(own, whole)
    if missing := [key for key in OWN if at(whole, key) is None]:
        raise ParamsError([f"{key}: missing: it is the recipe's own to say" for key in missing], recipe)
    if whole["modelfile"]["system"] is None:
        whole["modelfile"]["system"] = str(whole["dataset"]["system"])
    out = io.StringIO()
    yaml.dump(whole, out)
    # The blank lines that stood behind a key without a value stand behind its comment now.
    body = re.sub(r"\n\n\n(?=\w)", "\n\n", re.sub(r"(\n  mix:[^\n]*)\n\n", r"\1\n", out.getvalue()))
    return _head(text, recipe.name) + body[body.index("\nname:") + 1 :]


def _lay(own: CommentedMap, whole: CommentedMap, place: str = "") -> None:
    """Put a recipe's values over the defaults'; of two comments on a key the recipe's is kept."""
    for key, value in own.items():
        path = f"{place}{key}"
        if path not in WHOLE and isinstance(value, dict) and isinstance(whole.get(key), dict):
            _lay(value, whole[key], f"{path}.")
            continue
        whole[key] = value
        if key in own.ca.items:
            whole.ca.items[key] = own.ca.items[key]


def at(values: Any, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def changed(text: str, changes: dict[str, Any]) -> str:
    """The text of a params file with the values of dotted keys replaced where they stand; all else stays as it is."""
    lines = text.split("\n")
    for key, value in changes.items():
        *path, last = key.split(".")
        place = YAML().load("\n".join(lines))
        for part in path:
            place = place[part]
        line, column = place.lc.value(last)
        old = re.match(r"[^#\n]*?(?=\s*(#|$))", lines[line][column:])[0]
        new = str(value)
        rest = lines[line][column + len(old) :]
        if rest.lstrip().startswith("#"):  # the comment stays in its column where there is room
            rest = " " * max(1, len(rest) - len(rest.lstrip()) + len(old) - len(new)) + rest.lstrip()
        lines[line] = lines[line][:column] + new + rest
    return "\n".join(lines)


def record(changes: dict[str, Any], who: str, path: Path = PARAMS_FILE) -> str:
    """Write the values of dotted keys into a params file, and a comment at its head that says so; returns the comment.

    The file is what the weights were trained with, and a reader sees why it is not the recipe's.
    """
    values = read(path)
    words = ", ".join(f"{key} {at(values, key)} → {value}" for key, value in changes.items())
    line = f"{path}: {words} ({who}, {date.today():%d %b %Y})"
    lines = changed(path.read_bytes().decode(), changes).split("\n")
    end = next((number for number, one in enumerate(lines) if not one.startswith("#")), len(lines))
    write_text(path, "\n".join([*lines[:end], f"# {line.partition(': ')[2]}", *lines[end:]]))
    return line


def _head(text: str, name: str) -> str:
    """The recipe's own first comment, and where the rest comes from."""
    lines = text.splitlines()
    own = lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return "\n".join(
        [*own, f"# From {name} and recipes/defaults.yaml by `make use`: every choice, each value once.", "", ""]
    )


def differences(path: Path = PARAMS_FILE) -> Iterator[str]:
    """`key: the default → the value` of each key that is not as in the defaults; of a recipe's own the value."""
    return _differ(read(DEFAULTS), read(path), "")


def _differ(default: Any, value: Any, key: str) -> Iterator[str]:
    if isinstance(default, dict) and isinstance(value, dict) and key not in WHOLE:
        for name in [*value, *(name for name in default if name not in value)]:
            yield from _differ(default.get(name), value.get(name), f"{key}.{name}".lstrip("."))
    elif default != value:
        yield f"{key}: {value}" if default is None else f"{key}: {default} → {value}"
