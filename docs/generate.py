"""Write docs/params.md from the types and recipes/defaults.yaml, and docs/cli.md from the Makefile.

    python docs/generate.py

A test holds the pages against what this would write.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ingot.planning import cards, fit, plan, recipe  # noqa: E402
from ingot.planning.recipe import DEFAULTS  # noqa: E402
from ingot.planning.validation import Params  # noqa: E402


def cli() -> str:
    rows = re.findall(r"^([a-z.-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    head = "# Commands\n\n`make` alone lists them. `dvc` itself works too, after `source .venv/bin/activate`.\n\n"
    return head + "| command | does |\n|---|---|\n" + "".join(f"| `make {name}` | {text} |\n" for name, text in rows)


def params() -> str:
    text = DEFAULTS.read_text(encoding="utf-8")
    values, comments = YAML(typ="safe").load(text), YAML().load(text)
    out = [
        "# params.yaml",
        "",
        "Each key, what it may be, its value in `recipes/defaults.yaml`, and what it means.",
        "",
    ]
    out += _table(
        "",
        {name: field for name, field in Params.model_fields.items() if not _is_section(_schema(field))},
        values,
        comments,
    )
    for name, field in Params.model_fields.items():
        if _is_section(schema := _schema(field)):
            out += [
                "",
                f"## {name}",
                "",
                *_rows(schema, schema.get("$defs", {}), values.get(name) or {}, comments.get(name), ""),
            ]
    return "\n".join(out) + "\n"


HEAD = ["| key | may be | default | meaning |", "|---|---|---|---|"]


def _schema(field: Any) -> dict[str, Any]:
    return _plain(TypeAdapter(field.rebuild_annotation()).json_schema(), {})


def _plain(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    known = known | schema.get("$defs", {})
    if "$ref" in schema:
        return known[schema["$ref"].rsplit("/", 1)[-1]] | {"$defs": known}
    return schema


def _is_section(schema: dict[str, Any]) -> bool:
    return "properties" in schema


def _table(place: str, fields: dict[str, Any], values: Any, comments: Any) -> list[str]:
    return [*HEAD, *(_row(name, _schema(field), {}, values, comments) for name, field in fields.items())]


def _rows(schema: dict[str, Any], known: dict[str, Any], values: Any, comments: Any, place: str) -> list[str]:
    """A table of a section's keys; of sections within it the keys follow with their path."""
    lines = [] if place else list(HEAD)
    for key, inner in schema["properties"].items():
        inner = _plain(inner, known)
        below = next(
            (one for one in map(lambda x: _plain(x, known), inner.get("anyOf", [inner])) if _is_section(one)), None
        )
        lines.append(_row(f"{place}{key}", inner, known, values, comments, key))
        if below:
            lines += _rows(below, known, (values or {}).get(key) or {}, (comments or {}).get(key), f"{place}{key}.")
    return lines


def _row(name: str, schema: dict[str, Any], known: dict[str, Any], values: Any, comments: Any, key: str = "") -> str:
    key = key or name
    value = (values or {}).get(key) if isinstance(values, dict) else None
    shown = "" if value is None or isinstance(value, dict) else f"`{json.dumps(value, ensure_ascii=False)}`"
    cells = [f"`{name}`", _kind(schema, known), shown, _comment(comments, key)]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _comment(comments: Any, key: str) -> str:
    """What stands behind the key in defaults.yaml."""
    token = getattr(comments, "ca", None) and comments.ca.items.get(key)
    found = token[2] if token and token[2] else None
    return found.value.split("\n")[0].lstrip("# ").strip() if found else ""


def _kind(schema: dict[str, Any], known: dict[str, Any]) -> str:
    schema = _plain(schema, known)
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one, known) for one in schema["anyOf"]))
    kind = schema.get("type", "any")
    if kind in ("integer", "number"):
        name = {"integer": "integer", "number": "number"}[kind]
        least = schema.get("minimum", schema.get("exclusiveMinimum"))
        most = schema.get("maximum", schema.get("exclusiveMaximum"))
        above = "above " if "exclusiveMinimum" in schema else "from "
        below = " to below " if "exclusiveMaximum" in schema else " to "
        return (
            name
            + (f" {above}{least:,}" if least is not None else "")
            + (f"{below}{most:,}" if most is not None else "")
        )
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), known)}"
    if kind == "object":
        return "section" if "properties" in schema else "names and their values"
    return {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}.get(kind, kind)


CARDS = {"rtx3060": "12 GB", "rtx4060ti": "16 GB", "rtx4090": "24 GB", "h100": "80 GB"}


def recipes() -> str:
    """What each recipe's training is planned as, on four cards."""
    lines = [
        "# Recipes",
        "",
        "`make use RECIPE=recipes/qwen3-8b.yaml` puts one in place; all take the conversations at `data/chats.jsonl`.",
        "Below, for each: the fastest setting that is planned to fit, with 2,048 tokens and 16 rows an update: rows at",
        "once × batches, memory at its peak, tokens a second. Memory is held to measured peaks of Qwen2.5 alone; rates",
        "were measured on H100 and H200 alone, with 0.3B, 3B and 7B.",
        "",
        "| recipe | " + " | ".join(f"{size} ({name})" for name, size in CARDS.items()) + " |",
        "|---|" + "---|" * len(CARDS),
    ]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        if path == DEFAULTS or (found := recipe.params(path)).base.source != "hub":
            continue
        cells = [_planned(found, cards.find(name)) for name in CARDS]
        lines.append(f"| `{path.stem}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _planned(params: Params, card: cards.Card) -> str:
    best = fit.fastest(params.adapter, params.base.parameters, 2048, plan.config(params), card)
    if not best:
        return "nothing fits"
    short = "" if best.length == 2048 else f", {best.length} tokens"
    rows = best.adapter.batch_size
    return f"{rows} × {16 // rows}{short}: {best.peak / 1e9:.1f} GB, {best.rate:,.0f}/s"


PAGES = {"params.md": params, "cli.md": cli, "recipes.md": recipes}

if __name__ == "__main__":
    for page, made in PAGES.items():
        (ROOT / "docs" / page).write_text(made(), encoding="utf-8")
