"""Loading keys of params.yaml into types. No defaults live here: a missing key is an error."""

from __future__ import annotations

import difflib
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ingot.console import bounds
from ingot.console.messages import Fault

PARAMS_FILE = Path("params.yaml")

# The keys that several stages share stand at the top level of params.yaml.
# `name` starts with a letter: llama-quantize takes an argument that starts with a digit for a type number.
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,79}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
SequenceLength = Annotated[int, Field(ge=16, le=1_048_576)]
Template = Literal["chatml", "llama3", "llama2", "mistral", "gemma", "phi4", "deepseek-r1"]

# What a recipe holds until `make pin` has asked the hub; no stage runs with it.
UNPINNED = "unpinned"
COMMIT = "[0-9a-f]{40}"
Revision = Annotated[str, Field(pattern=f"^({COMMIT}|{UNPINNED})$")]
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


def _prompt(text: str) -> str:
    """A prompt as it is trained and as it is served: YAML's `|` ends it with a newline, which is none of it."""
    if not text.strip():
        raise ValueError(
            f"{text!r} is blank: write a system prompt, or leave the key out where another one stands for it"
        )
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


Prompt = Annotated[str, AfterValidator(_prompt)]


class Section(BaseModel):
    """A section of params.yaml: unknown keys forbidden, no conversions (`"2"` is not 2), unchangeable once loaded."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ParamsError(Fault):
    """Every fault found in params.yaml, one a line, each with the key's path and what would be right."""

    def __init__(self, faults: list[str], path: Path = PARAMS_FILE):
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(f"{path}: {count}\n" + "\n".join(f"  {fault}" for fault in faults))


def read(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """The file as plain data. ruamel reads YAML 1.2, where `2e-4` is a number, as DVC does."""
    if not path.is_file():
        raise ParamsError(
            ["no such file: run from the repository's root, or put a recipe in place (make use RECIPE=…)"], path
        )
    try:
        if (size := path.stat().st_size) > bounds.PARAMS_BYTES:
            raise ParamsError([f"{size:,} bytes, where {bounds.PARAMS_BYTES:,} at most are read"], path)
        text = path.read_text(encoding="utf-8")
        bounds.check_yaml(YAML(typ="safe", pure=True).parse(text))
        data = YAML(typ="safe", pure=True).load(text)
    except bounds.TooMuch as error:
        raise ParamsError([str(error)], path) from None
    except (YAMLError, ValueError, RecursionError) as error:  # of no UTF-8 and of dates that are none, too
        raise ParamsError([f"not readable as YAML: {error}"], path) from None
    if not isinstance(data, dict):
        raise ParamsError(["must hold sections (name: value), not a bare value"], path)
    return data


def faults_of(key: str, error: ValidationError) -> list[str]:
    """Pydantic's errors as lines `path.to.key: value: reason`."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join([key, *(str(part) for part in item["loc"])])
        if item["type"] == "missing":
            lines.append(f"{path}: missing; no default stands in the code, so write it")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key")
        elif item["type"] == "value_error":
            lines.append(f"{path}: {item['ctx']['error']}")
        elif item["type"] == "string_pattern_mismatch" and "{40}" in item["ctx"]["pattern"]:
            lines.append(
                f"{path}: {item['input']!r}: must be a commit's 40 hexadecimal digits: "
                "a branch or tag can move (`make pin` writes the commit)"
            )
        else:
            lines.append(f"{path}: {_brief(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}")
    return lines


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean X?`, or which words there are."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def load(key: str, kind: Any, path: Path = PARAMS_FILE) -> Any:
    """The value of a top-level key, validated as `kind` (a `Section` or an annotated type).

    Stages call this once per key that dvc.yaml declares for them. Raises ParamsError with every fault of that key.
    """
    data = read(path)
    if key not in data:
        raise ParamsError([f"{key}: missing; every stage's section must be there"], path)
    try:
        return TypeAdapter(kind).validate_python(data[key])
    except ValidationError as error:
        raise ParamsError(faults_of(key, error), path) from None
