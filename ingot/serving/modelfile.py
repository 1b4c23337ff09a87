"""Ollama's Modelfile, written and read by its own grammar (parser/parser.go of ollama).

`python -m ingot.serving.modelfile FILE NAME` prints what a Modelfile says, and the commands that serve it, as JSON.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ingot.console import messages
from ingot.console.progress import StageError
from ingot.params.core import nearest
from ingot.serving.params import writable

# The parameters that Ollama knows (api.Options), by the type that it reads their values as; `stop` is a list of texts.
PARAMETERS = {
    **dict.fromkeys(["num_ctx", "num_predict", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread"], int),
    **dict.fromkeys(["seed", "top_k", "repeat_last_n"], int),
    **dict.fromkeys(["temperature", "top_p", "min_p", "typical_p"], float),
    **dict.fromkeys(["repeat_penalty", "presence_penalty", "frequency_penalty"], float),
    "use_mmap": bool,
}
# Commands that change the model in ways that nothing of ours would follow or prove.
REFUSED = {
    "ADAPTER": "newer versions of Ollama take no adapters: the adapter is folded in here (stage merged)",
    "DRAFT": "a second model would be served, which no stage has measured",
    "RENDERER": "it renders by code of Ollama's instead of the template that was trained on",
    "PARSER": "it takes answers apart by code of Ollama's",
    "REQUIRES": "which versions can serve the file is told by the template's proof (make ollama)",
}
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Modelfile:
    model: str  # FROM: a path relative to the Modelfile's folder, or it would be taken for a model to pull
    template: str  # "": Ollama goes by the template in the GGUF
    system: str
    parameters: dict[str, int | float | bool]
    stops: list[str]
    messages: list[dict[str, str]] = field(
        default_factory=list
    )  # how every conversation begins, after the system prompt
    licenses: list[str] = field(default_factory=list)


def dump(modelfile: Modelfile) -> str:
    """The file's text. Raises StageError for text that the grammar cannot hold."""
    lines = [f"FROM {_quoted('FROM', modelfile.model, plainly=True)}"]
    if modelfile.template:
        lines.append(f"TEMPLATE {_quoted('TEMPLATE', modelfile.template)}")
    if modelfile.system:
        lines.append(f"SYSTEM {_quoted('SYSTEM', modelfile.system)}")
    lines += [f"PARAMETER {key} {json.dumps(value)}" for key, value in modelfile.parameters.items()]
    lines += [f"PARAMETER stop {_quoted('PARAMETER stop', stop, simply=True)}" for stop in modelfile.stops]
    lines += [f"MESSAGE {turn['role']} {_quoted('MESSAGE', turn['content'])}" for turn in modelfile.messages]
    lines += [f"LICENSE {_quoted('LICENSE', text)}" for text in modelfile.licenses]
    text = "\n".join(lines) + "\n"
    if load(text) != modelfile:
        raise StageError(f"the Modelfile would not read back as it was meant:\n{text}")
    return text


def load(text: str) -> Modelfile:
    """Read what `dump` wrote, or a person's file. Raises StageError, with the line, for what Ollama would refuse, what
    it would change silently, and what cannot be followed here."""
    found: dict[str, str] = {}
    parameters: dict[str, int | float | bool] = {}
    lists: dict[str, list] = {"stop": [], "MESSAGE": [], "LICENSE": []}
    for line, command, key, value in _commands(text):
        try:
            writable(value)
        except ValueError as error:
            raise StageError(f"Modelfile, line {line}: {command}: {error}") from None
        if command in REFUSED:
            raise StageError(f"Modelfile, line {line}: {command} is not supported: {REFUSED[command]}")
        if command == "FROM" and command in found:
            raise StageError(f"Modelfile, line {line}: a second FROM: one file is served")
        if command == "PARAMETER" and key == "stop":
            lists["stop"].append(value)
        elif command == "PARAMETER":
            parameters[key] = _typed(line, key, value)
        elif command == "MESSAGE":
            lists["MESSAGE"].append({"role": key, "content": value})
        elif command == "LICENSE":
            lists["LICENSE"].append(value)
        else:
            found[command] = value
    if "FROM" not in found:
        raise StageError("Modelfile: no FROM: name the GGUF")
    return Modelfile(
        found["FROM"], found.get("TEMPLATE", ""), found.get("SYSTEM", ""), parameters,
        lists["stop"], lists["MESSAGE"], lists["LICENSE"],
    )  # fmt: skip


def read(path: Path) -> tuple[Modelfile, Path]:
    """A Modelfile, and the file that its FROM names. Raises StageError where either is missing."""
    if not path.is_file():
        raise StageError(f"{path}: not built yet: run `make repro`")
    try:
        served = load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise StageError(f"{path}: no UTF-8 ({error}): save it as such") from None
    if (context := served.parameters.get("num_ctx", 1)) < 1:
        raise StageError(f"{path}: PARAMETER num_ctx {context}: must be 1 or more")
    model = Path(os.path.normpath(path.parent / Path(served.model).expanduser()))
    if not model.is_file():
        raise StageError(f"{path}: FROM {served.model}: no such file, so Ollama would take it for a model to pull")
    return served, model


def run_with(name: str, model: str, served: Modelfile) -> list[str]:
    """The shell's lines that serve `model` by Ollama as `name`, and by llama.cpp with the Modelfile's parameters."""
    options = {"num_ctx": "-c", "num_predict": "-n", "seed": "-s", "temperature": "--temp"}
    options |= {key: f"--{key.replace('_', '-')}" for key in PARAMETERS if key.startswith(("top_", "min_p", "repeat_"))}
    options |= {key: f"--{key.replace('_', '-')}" for key in ("presence_penalty", "frequency_penalty")}
    words = ["-m", model, "--jinja"]
    words += [
        word
        for key, option in options.items()
        if key in served.parameters
        for word in (option, str(served.parameters[key]))
    ]
    words += [word for stop in served.stops for word in ("-r", stop)]
    # Else a backslash in a prompt or stop would be taken for an escape.
    system = ["--no-escape", *(["-sys", served.system] if served.system else [])]
    return [
        shlex.join(["ollama", "run", name]),
        shlex.join(["llama-server", *words, "--no-escape"]),
        shlex.join(["llama-cli", *words, *system]),
    ]


def _commands(text: str) -> Iterator[tuple[int, str, str, str]]:
    """Each command of a file: line, name in capitals, key (PARAMETER, MESSAGE) or "", value without quotes."""
    if "\r" in text:
        raise StageError(
            "Modelfile: its lines end as on Windows, which Ollama would keep in prompts: save it with plain newlines"
        )
    lines = enumerate(text.removeprefix("\ufeff").split("\n"), 1)
    for line, written in lines:
        if not (rest := written.lstrip(" \t")) or rest.startswith("#"):
            continue
        name, rest = _cut(rest)
        command, key = name.upper(), ""
        if command not in ("FROM", "TEMPLATE", "SYSTEM", "PARAMETER", "MESSAGE", "LICENSE", *REFUSED) or rest is None:
            reason = "nothing follows it" if rest is None else "no command of a Modelfile"
            raise StageError(f"Modelfile, line {line}: {name!r}: {reason}")
        if command in ("PARAMETER", "MESSAGE"):  # one blank goes before the key, by the grammar
            key, rest = _cut(rest)
            if not key or rest is None:
                raise StageError(f"Modelfile, line {line}: {command}: write `{command} NAME VALUE`, one blank between")
            if command == "MESSAGE" and key not in ROLES:
                raise StageError(f"Modelfile, line {line}: MESSAGE {key}: must be one of {', '.join(ROLES)}")
        while (value := _unquoted(rest)) is None:
            _, more = next(lines, (0, None))
            if more is None:
                raise StageError(f"Modelfile, line {line}: {command}: its quotes are never closed")
            rest += f"\n{more}"
        yield line, command, key, value


def _cut(text: str) -> tuple[str, str | None]:
    """What stands before the first blank, and what after it; None where there is no blank."""
    word, blank, rest = re.match(r"([^ \t]*)([ \t]?)(.*)", text, re.S).groups()
    return word, rest if blank else None


def _unquoted(text: str) -> str | None:
    """A value without its quotes; None while they are open. Nothing between them is an escape."""
    text = text.strip()
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def _quoted(command: str, text: str, simply: bool = False, plainly: bool = False) -> str:
    """The text as a value: in triple quotes, or in fewer where these are asked for and suffice."""
    try:
        writable(text)
    except ValueError as error:
        raise StageError(f"{command}: {error}") from None
    ways = [text] * plainly + [f'"{text}"'] * simply + [f'"""{text}"""']
    return next((way for way in ways if "\n" not in way and _unquoted(way) == text), ways[-1])


def _typed(line: int, key: str, value: str) -> int | float | bool:
    if key not in PARAMETERS:
        raise StageError(
            f"Modelfile, line {line}: Ollama knows no parameter {key!r}{nearest(key, [*PARAMETERS, 'stop'])}"
        )
    kind = PARAMETERS[key]
    try:
        given = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        if "_" in value or not math.isfinite(given):  # Python's numbers, not Go's
            raise ValueError
        return given
    except (KeyError, ValueError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise StageError(f"Modelfile, line {line}: PARAMETER {key} {value}: must be {wanted}") from None


if __name__ == "__main__":
    with messages.command():
        said, file = read(Path(sys.argv[1]))
        print(json.dumps(asdict(said) | {"file": str(file), "commands": run_with(sys.argv[2], str(file), said)}))
