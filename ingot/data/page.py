"""reports/dataset.html: what the model will learn from, as one page to look at: no script, nothing fetched, the same bytes."""

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

# What would move or hide the text around it, in a browser as in a terminal: shown as itself instead. Tabs and newlines stay.
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
            HEAD + SETS + UNREAD + DROPPED + SEEN,
            figures,
            examples=[(one, _cut(one.pieces)) for one in examples],
            alone=alone,
            part=lambda some, whole: f"{100 * some / whole:.1f} %" if whole else "–",
            bars=_bars,
        ),
    )


def write_failed(figures: dict[str, Any], path: Path) -> None:
    """The page of a dataset that was not made (`tally.failed`): why, and what was dropped until then."""
    write_text(path, _rendered(HEAD + FAILED + UNREAD + DROPPED + END, figures))


def _rendered(page: str, figures: dict[str, Any], **more: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"visible": visible, "number": lambda value: f"{value:,}"}
    reasons: Counter[str] = Counter()
    for source in figures["sources"].values():
        reasons.update(source["dropped"])
    return environment.from_string(page).render(
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


# In the module, so that it is what the dataset stage depends on; in templates/ it would be a dep of training, too.
HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>The dataset</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --back: #fff; --card: #f6f7f9;
  --bar: #4a78b5; --trained: #cdeccb; --mark: #1a7f37; --lost: #b3541e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa4af; --line: #363d46; --back: #14171b;
  --card: #1c2026; --bar: #6ea0dc; --trained: #1d4427; --mark: #57c26f; --lost: #e0905c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 74rem; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { max-width: 46rem; margin: .4rem 0; } .soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tile { flex: 1 1 9rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums;
  white-space: nowrap; vertical-align: middle; }
th { font-weight: 600; color: var(--soft); } th:first-child, td:first-child { text-align: left; padding-left: 0; }
tfoot td { font-weight: 600; border-bottom: 0; } .lost { color: var(--lost); }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 11rem; border-bottom: 1px solid var(--soft);
  border-right: 2px dashed var(--lost); padding-right: 2px; }
.bars i { flex: 1; background: var(--bar); border-radius: 2px 2px 0 0; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .85rem; }
.spark { display: inline-flex; align-items: flex-end; gap: 1px; height: 1.4rem; width: 6.5rem;
  border-bottom: 1px solid var(--line); } .spark i { flex: 1; background: var(--bar); }
details { border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0; background: var(--card); }
summary { cursor: pointer; padding: .5rem .9rem; font-variant-numeric: tabular-nums; }
details > div { padding: 0 .9rem .7rem; }
pre { margin: .3rem 0 .8rem; padding: .7rem .9rem; background: var(--back); border: 1px solid var(--line); border-radius: 6px;
  font: 13px/1.55 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
mark { background: var(--trained); color: inherit; border-bottom: 2px solid var(--mark); }
.control { color: var(--soft); } bdi { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>The dataset</h1>
"""

SETS = """\
<div class="tiles">
<div class="tile"><b>{{ figures.train|number }}</b>rows to train on</div>
<div class="tile"><b>{{ figures.eval|number }}</b>held out</div>
<div class="tile"><b>{{ figures.train_tokens|number }}</b>tokens</div>
<div class="tile"><b>{{ part(figures.trained_tokens, figures.train_tokens) }}</b>of them trained</div>
<div class="tile"><b>{{ figures.dropped|number }}</b>rows dropped</div>
</div>

<h2>Sets</h2>
<div class="wide"><table>
<thead><tr><th>set</th><th>raw rows</th><th>dropped</th><th>not drawn</th><th>asked</th><th>held out</th><th>to train on</th><th>repeated</th>
<th>tokens</th><th>share</th><th>trained</th><th>lengths</th></tr></thead>
<tbody>
{% for name, source in sources %}
<tr><td><bdi>{{ name|visible }}</bdi></td><td>{{ source.raw|number }}</td>
<td{% if source.dropped %} class="lost"{% endif %}>{{ source.dropped.values()|sum|number }}</td>
<td>{{ source.not_drawn|number }}</td>
<td{% if source.train - source.repeated + source.eval < source.asked %} class="lost"{% endif %}>{{ source.asked|number }}</td>
<td>{{ source.eval|number }}</td><td>{{ source.train|number }}</td>
<td>{{ source.repeated|number }}</td><td>{{ source.train_tokens|number }}</td>
<td>{{ part(source.train_tokens, figures.train_tokens) }}</td><td>{{ part(source.trained_tokens, source.train_tokens) }}</td>
<td><span class="spark" role="img" aria-label="lengths of {{ name|visible }}">
{%- for bar in bars(source.lengths, figures.lengths.upto) -%}
<i style="height:{{ bar.height }}%"></i>
{%- endfor -%}
</span></td></tr>
{% endfor %}
</tbody>
<tfoot><tr><td>all</td><td>{{ sources|sum(attribute="1.raw")|number }}</td><td>{{ figures.dropped|number }}</td>
<td>{{ sources|sum(attribute="1.not_drawn")|number }}</td><td>{{ sources|sum(attribute="1.asked")|number }}</td><td>{{ figures.eval|number }}</td><td>{{ figures.train|number }}</td>
<td>{{ sources|sum(attribute="1.repeated")|number }}</td><td>{{ figures.train_tokens|number }}</td><td></td>
<td>{{ part(figures.trained_tokens, figures.train_tokens) }}</td><td></td></tr></tfoot>
</table></div>
<p class="soft">Asked is the set's share of total_samples. Raw rows are those dropped, not drawn, held out and trained on; rows that are repeated are counted again among the last.
{{ part(figures.eval, figures.eval + figures.train) }} of the mix is held out. A hash of each conversation decides which rows may
be, so that none ever changes sides: where a set needs all of its rows, its part is what fell to that side.</p>

<h2>Lengths</h2>
<div class="bars" role="img" aria-label="rows by length in tokens">
{% for bar in bars(figures.lengths.rows, figures.lengths.upto) %}
<i style="height:{{ bar.height }}%" title="{{ bar.from|number }} to {{ bar.upto|number }} tokens: {{ bar.rows|number }} rows"></i>
{% endfor %}
</div>
<div class="axis"><span>1 token</span><span>{{ figures.lengths.upto[figures.lengths.upto|length // 2 - 1]|number }}</span>
<span>max_seq_length: {{ figures.max_seq_length|number }}</span></div>
<p>The mean is {{ "%.0f"|format(figures.train_tokens / (figures.train or 1)) }} tokens, the fullest bar
{{ figures.lengths.rows|max|number }} rows.
{% if figures.too_long.rows %}
<span class="lost">{{ figures.too_long.rows|number }} rows were longer than max_seq_length</span> and are not trained on; a cut
there would have lost {{ figures.too_long.tokens|number }} of their tokens, {{ figures.too_long.trained|number }} of those that
are trained.
{% else %}
No row that was looked at was longer than max_seq_length.
{% endif %}</p>

<h2>Packing</h2>
<p>Packed, the rows make {{ figures.packing.sequences|number }} sequences of {{ figures.max_seq_length|number }} tokens,
{{ part(figures.packing.filled, 1) }} full. One row a sequence, {{ figures.train|number }} of them would be {{ part(alone, 1) }}
full, the rest padding.</p>

"""

# Not among the others, for most sets have none: a page without it stays as it was.
UNREAD = """\
{% if figures.unread is defined and figures.unread %}
<h2>Not read</h2>
<p>Columns that hold something and that no mapping names.</p>
<div class="wide"><table>
<thead><tr><th>set</th><th>column</th><th>rows</th><th>such as</th></tr></thead>
<tbody>
{% for one in figures.unread %}
<tr><td><bdi>{{ one.source|visible }}</bdi></td><td><bdi>{{ one.column|visible }}</bdi></td><td>{{ one.rows|number }}</td>
<td><bdi>{{ (one.sample or one.why)|visible }}</bdi></td></tr>
{% endfor %}
</tbody>
</table></div>

{% endif %}
"""

DROPPED = """\
<h2>Dropped</h2>
{% for reason, count in reasons %}
<details{% if loop.first %} open{% endif %}><summary><b>{{ count|number }}</b> · <bdi>{{ reason|visible }}</bdi>
<span class="soft">
{%- for name, source in sources if reason in source.dropped -%}
{{ " · " }}{{ name|visible }} {{ source.dropped[reason]|number }}
{%- endfor -%}
</span></summary><div>
{% for shown in figures.examples if shown.reason == reason %}
<div class="soft">{{ shown.source|visible }}, raw row {{ shown.row|number }}
{%- if shown.detail %}: <bdi>{{ shown.detail|visible }}</bdi>{% endif %}</div>
<pre dir="auto">{{ "\\n" }}{{ shown.text|visible }}</pre>
{% endfor %}
</div></details>
{% else %}
<p>Nothing was.</p>
{% endfor %}

"""

SEEN = """\
<h2>What the model sees</h2>
<p>Training learns to write <mark>what is marked</mark> and reads the rest. <span class="control">Grey</span> are control tokens.</p>
{% for one, (parts, left_out) in examples %}
<details{% if loop.index <= 3 %} open{% endif %}><summary><bdi>{{ one.source|visible }}</bdi>
<span class="soft">· raw row {{ one.row|number }} · {{ one.tokens|number }} tokens, {{ one.trained|number }} trained</span></summary>
<div><pre dir="auto">{{ "\\n" }}
{%- for part in parts -%}
{%- if part.trained %}<mark>{% endif %}{% if part.control %}<span class="control">{% endif -%}
{{ part.text|visible }}
{%- if part.control %}</span>{% endif %}{% if part.trained %}</mark>{% endif -%}
{%- endfor -%}
</pre>
{%- if left_out %}<p class="soft">and {{ left_out|number }} more characters</p>{% endif -%}
</div></details>
{% endfor %}
</body>
</html>
"""

FAILED = """\
<p class="lost">The dataset was not made:</p>
<pre dir="auto">{{ "\\n" }}{{ figures.failed|visible }}</pre>

"""
END = "</body>\n</html>\n"
