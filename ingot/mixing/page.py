"""reports/dataset.html: what the model learns from, a page to look at: no script, nothing fetched, the same bytes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.chat import encoding, token_files
from ingot.exact.files import write_text

EACH = 2  # conversations shown of each set
LONGEST = 6000  # characters of one that are shown

# What would move or hide the text around it, in a browser as in a terminal: shown as itself. Tabs and newlines stay.
PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: "\u2421"}
NAMED = [*range(0x80, 0xA0), 0x061C, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF]
VISIBLE = PICTURES | {code: f"‹U+{code:04X}›" for code in NAMED if code != 0x200D}  # the joiner of emoji is harmless


@dataclass(frozen=True)
class Piece:
    """A part of a conversation's text whose tokens are alike."""

    text: str
    trained: bool
    control: bool


@dataclass(frozen=True)
class Seen:
    """A conversation as the model sees it."""

    source: str
    row: int
    tokens: int
    trained: int
    pieces: list[Piece]


def visible(text: str) -> str:
    """The text with what cannot be seen, or would reorder what can be, written out."""
    return text.translate(VISIBLE).encode(errors="replace").decode()


def pieces(tokenizer, encoded: encoding.Encoded) -> list[Piece]:
    """The text by what is trained. A character of several tokens stands once, with the first of them."""
    special = encoding.special_ids(tokenizer)
    offsets = encoding.encode_text(tokenizer, encoded.text).offsets
    found: list[Piece] = []
    at = 0
    for token, trained, (_, right) in zip(encoded.ids, encoded.trained, offsets, strict=True):
        if right <= at:
            continue
        text, control = encoded.text[at:right], token in special
        at = right
        if found and (found[-1].trained, found[-1].control) == (trained, control):
            text = found.pop().text + text
        found.append(Piece(text, trained, control))
    return found


def seen(part: Path, tokenizer, sources: list[str]) -> list[Seen]:
    """The first conversations of each of the `sources` in a part of the dataset: `part`.jsonl, `part`.arrow."""
    found: dict[str, list[Seen]] = {name: [] for name in sorted(sources)}
    missing = set(found)
    with part.with_suffix(".jsonl").open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            if not missing:
                break
            row = json.loads(line)
            name = row["source"]
            if name not in missing or any(one.row == row["row"] for one in found[name]):
                continue  # repeated rows are shown once
            encoded = token_files.row(part.with_suffix(".arrow"), number)
            parts = pieces(tokenizer, encoded)
            found[name].append(Seen(name, row["row"], len(encoded.ids), sum(encoded.trained), parts))
            if len(found[name]) == EACH:
                missing.remove(name)
    return [one for several in found.values() for one in several]


def write(figures: dict[str, Any], examples: list[Seen], path: Path) -> None:
    """The page of `figures` (what reports/dataset.json holds) and of `examples`."""
    longest = figures["max_seq_length"]
    alone = figures["train_tokens"] / max(1, figures["train"] * longest)  # each row in a sequence of its own
    write_text(
        path,
        _rendered(
            figures,
            examples=[(one, _cut(one.pieces)) for one in examples],
            alone=alone,
            part=lambda some, whole: f"{100 * some / whole:.1f} %" if whole else "–",
            bars=_bars,
        ),
    )


def write_failed(figures: dict[str, Any], path: Path) -> None:
    """The page of a dataset that was not made (`dataset_report.failed`): why, and what was dropped until then."""
    write_text(path, _rendered(figures))


def _rendered(figures: dict[str, Any], **more: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "number": lambda value: f"{value:,}"}
    reasons: Counter[str] = Counter()
    for source in figures["sources"].values():
        reasons.update(source["dropped"])
    return environment.get_template("page.html.jinja").render(
        figures=figures,
        sources=sorted(figures["sources"].items()),
        reasons=sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
        **more,
    )


def _bars(counts: list[int], upto: list[int]) -> list[dict[str, Any]]:
    """Each bar's height in percent of the highest. One row is still to be seen, hence at least 1."""
    top = max([*counts, 1])
    low = [1, *(length + 1 for length in upto)]
    return [
        {"height": max(1.0, round(100 * rows / top, 1)) if rows else 0, "rows": rows, "from": low[at], "upto": upto[at]}
        for at, rows in enumerate(counts)
    ]


def _cut(parts: list[Piece]) -> tuple[list[Piece], int]:
    """The pieces up to LONGEST characters, and how many characters are left out."""
    shown, room = [], LONGEST
    for part in parts:
        if room > 0:
            shown.append(Piece(part.text[:room], part.trained, part.control))
        room -= len(part.text)
    return shown, max(0, -room)
