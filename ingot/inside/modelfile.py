"""Ollama's Modelfile, written and read by its own grammar (parser/parser.go of ollama)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ingot.inside.progress import StageError
from ingot.params.modelfile import writable


@dataclass(frozen=True)
class Modelfile:
    model: str  # FROM: a path relative to the Modelfile's folder, or it would be taken for a model to pull
    template: str
    system: str
    parameters: dict[str, int | float]
    stops: list[str]


def dump(modelfile: Modelfile) -> str:
    """The file's text. Raises StageError for text that the grammar cannot hold."""
    lines = [f"FROM {modelfile.model}", f"TEMPLATE {_quoted('TEMPLATE', modelfile.template)}"]
    lines += [f"SYSTEM {_quoted('SYSTEM', modelfile.system)}"]
    lines += [f"PARAMETER {key} {value}" for key, value in modelfile.parameters.items()]
    lines += [f'PARAMETER stop "{stop}"' for stop in modelfile.stops]
    return "\n".join(lines) + "\n"


def load(text: str) -> Modelfile:
    """Read what `dump` wrote, or a person's file of the same commands."""
    command = re.compile(
        r'^(FROM|TEMPLATE|SYSTEM|PARAMETER +\w+) +(?:"""(.*?)"""|"([^"\n]*)"|([^\n]*))\s*$', re.M | re.S
    )
    found: dict[str, str] = {}
    parameters: dict[str, int | float] = {}
    stops: list[str] = []
    for match in command.finditer(text):
        key, value = match[1], next(part for part in match.groups()[1:] if part is not None)
        if not key.startswith("PARAMETER"):
            found[key] = value
        elif (name := key.split()[1]) == "stop":
            stops.append(value)
        else:
            parameters[name] = int(value) if re.fullmatch(r"-?\d+", value) else float(value)
    return Modelfile(found["FROM"], found["TEMPLATE"], found["SYSTEM"], parameters, stops)


def _quoted(command: str, text: str) -> str:
    try:
        writable(text)
    except ValueError as error:
        raise StageError(f"{command}: {error}") from None
    return f'"""{text}"""'
