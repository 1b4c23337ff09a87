"""A model card's parts: front matter as YAML, tables and fences as Markdown, whatever the texts hold."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from ingot.console.progress import bytes_
from ingot.exact.files import sha256
from ingot.model.params import Base
from ingot.sources.params import Source
from ingot.training.params import LOW_RANK, Adapter

# What the Hugging Face Hub knows by name (its documentation's list, those that models come under).
HUB_LICENSES = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigcode-openrail-m", "afl-3.0",
    "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-permissive-2.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "ms-pl",
    "isc", "unlicense", "wtfpl", "zlib", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma",
}  # fmt: skip
NOT_STATED = "not stated in params.yaml"
# Of the adapter's section what a reader wants to know; what a method does not use is left out.
TRAINING = ["epochs", "batch_size", "accumulation", "packing", "optimizer", "learning_rate", "scheduler", "warmup"]
TRAINING += ["weight_decay", "max_grad_norm", "precision", "attention", "keep"]
OF_LOW_RANK = ["r", "alpha", "rslora", "dropout"]
METHODS = {"qlora": "QLoRA", "lora": "LoRA", "dora": "DoRA", "ia3": "IA3", "full": "all weights"}
COMPARED = {"number": "the last number", "exact": "the whole answer", "regex": "what a pattern finds in it"}
NUMBER = re.compile(r"([\d,.]+(e-?\d+)?( [kMG]?B|%)?)?")
HEADS = {
    "bytes": "size",
    "kl": "KL to the step before",
    "kl_999": "its 99.9th percentile",
    "same_top": "same top token",
    "kl_to_adapter": "KL to the trained model",
}


def front_matter(entries: Mapping[str, Any]) -> str:
    """What the Hugging Face Hub reads of a card; empty entries are left out."""
    yaml = YAML()
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 2**30
    text = io.StringIO()
    yaml.dump({key: _quoted(value) for key, value in entries.items() if value}, text)
    return f"---\n{text.getvalue()}---\n"


def _quoted(value: Any) -> Any:
    """Texts in quotes: the Hub reads YAML 1.1, to which `no` is false and `1e3` may be a number."""
    return [_quoted(one) for one in value] if isinstance(value, list) else DoubleQuotedScalarString(value)


def license_entries(said: str | None) -> dict[str, str]:
    """A licence as the Hub takes it: identifiers in small letters; anything else is `other`, with its name."""
    if said is None:
        return {}
    return {"license": said.lower()} if said.lower() in HUB_LICENSES else {"license": "other", "license_name": said}


def render(**known: Any) -> str:
    """The card: card.md.jinja, filled with what the build knows."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: `cell` and `fenced` take care
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": cell, "fenced": fenced, "table": table}
    environment.filters |= {"number": lambda value: f"{value:,}", "percent": lambda value: f"{value:.1%}"}
    return environment.get_template("card.md.jinja").render(compared=COMPARED, **known)


def table(rows: Sequence[Sequence[Any]], heads: Sequence[str]) -> str:
    """A Markdown table; numbers to the right."""
    right = [all(NUMBER.fullmatch(cell(row[at])) for row in rows) for at in range(len(heads))]
    lines = [heads, *rows]
    made = [f"| {' | '.join(map(cell, line))} |" for line in lines]
    rule = f"|{'|'.join('---:' if number else '---' for number in right)}|"
    return "\n".join([made[0], rule, *made[1:]]) + "\n"


def cell(value: Any) -> str:
    """A value in a table: no text can end the cell, or be read as markup."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    text = re.sub(r"([\\`*\[\]|~]|\b_|_\b)", r"\\\1", str(value)).replace("&", "&amp;").replace("<", "&lt;")
    return "<br>".join(text.splitlines())


def fenced(text: str) -> str:
    """Verbatim, within a fence that is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}\n"


def base_told(base: Base, folder: Path) -> tuple[str, list[tuple[str, Any]]]:
    """The base in a few words, and as rows of a table."""
    if base.source == "hub":
        name, rows = base.repo, [("repository", base.repo), ("revision", base.revision)]
    elif base.source == "local":
        name, rows = "a local base", [("SHA-256 of its files", digest(folder))]
    else:
        shape = base.tiny.model_dump()
        name = "a random base, drawn from a seed"
        rows = [("drawn from seed", shape.pop("seed")), ("shape", [f"{key} {value}" for key, value in shape.items()])]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows += [("architecture", config.get("architectures") or config["model_type"]), ("parameters", base.parameters)]
    return name, [*rows, ("licence", base.license or NOT_STATED)]


def dataset_told(
    name: str, source: Source, files: Mapping[str, Mapping[str, Any]], used: Mapping[str, Any]
) -> list[Any]:
    """A dataset as a row: name, where from, which version, licence, rows trained on and held out.

    `files` are those of build/raw/files.json, `used` its entry in reports/dataset.json.
    """
    own = {path: entry["sha256"] for path, entry in files.items() if path.startswith(f"{name}/")}
    [version] = [source.revision] if source.repo else own.values() if len(own) == 1 else [_combined(own)]
    return [
        name, source.repo or source.path, version, source.license or NOT_STATED, used["train"], used["eval"],
    ]  # fmt: skip


def training_told(adapter: Adapter) -> list[tuple[str, Any]]:
    """How it was trained, as rows of a table."""
    values = adapter.model_dump()
    keys = (
        OF_LOW_RANK * (adapter.method in LOW_RANK)
        + ["target_modules"] * (adapter.method in (*LOW_RANK, "ia3"))
        + TRAINING
    )
    return [(key.replace("_", " "), values[key]) for key in keys]


def ledger_told(tsv: str) -> str:
    """reports/evaluation/ledger.tsv as a table: its columns are the tsv's, whatever they are."""
    keys, *lines = [line.split("\t") for line in tsv.splitlines()]
    rows = [[_figure(key, value) for key, value in zip(keys, line, strict=True)] for line in lines]
    return table(rows, [HEADS.get(key, key.replace("_", " ")) for key in keys])


def _figure(key: str, value: str) -> str:
    if key == "step" or not value:
        return value
    return bytes_(int(value)) if key == "bytes" else f"{float(value):.1%}" if key == "same_top" else f"{float(value):g}"


def file_row(path: Path) -> list[Any]:
    return [path.name, bytes_(path.stat().st_size), sha256(path)]


def digest(folder: Path) -> str:
    """One hash for a folder's files."""
    return _combined({str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()})


def _combined(hashes: Mapping[str, str]) -> str:
    """One hash for several, each with its name: that of the list which `sha256sum` writes."""
    listed = "".join(f"{value}  {name}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(listed.encode()).hexdigest()
