"""`ingot new`: from files, a base and a card to a short recipe with its reasons, and params.yaml from it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ingot.chat import counting, encoding
from ingot.console import progress
from ingot.mixing import page
from ingot.planning import new_base, new_data, new_recipe, plan, recipe
from ingot.planning.cards import Card
from ingot.planning.new_data import DataSet, NewError

SHOWN = 2  # conversations
LOOKED_AT = 200  # rows of a set, by a preview


@contextmanager
def _scratch() -> Iterator[None]:
    """Whatever is read goes by a folder of links that is gone afterwards."""
    progress.quiet_libraries()
    try:
        yield
    finally:
        shutil.rmtree(new_data.SCRATCH, ignore_errors=True)


@_scratch()
def preview(places: list[str], asked: new_recipe.Asked, console: Console) -> None:
    """Show how the files would be mapped, two conversations of each, without a base: nothing is written."""
    taken: set[str] = set()
    for place in places:
        found = new_data.look(place, taken, asked.columns, asked.ignore, True)
        _say_data(found, console)
        shown, reasons = 0, Counter()
        for number, messages in new_data.conversations(
            found, asked.system or new_recipe.SYSTEM, asked.template or "chatml", [], LOOKED_AT
        ):
            if isinstance(messages, str):
                reasons[messages] += 1
            if isinstance(messages, str) or shown == SHOWN:
                continue
            shown += 1
            console.print(f"\n  row {number:,}", markup=False)
            for message in messages:
                text = page.visible(message["content"])
                style = "bold underline green" if message["role"] == "assistant" else ""
                console.print(Text(f"  {message['role']:>9}  ").append(text[:600], style=style))
        if reasons:
            looked = min(LOOKED_AT, len(found.rows))
            console.print(f"\n  of {looked:,} rows looked at are left out: {_listed(reasons)}", markup=False)
        if not shown:
            raise NewError(
                f"{place}: no row that was looked at can be trained on\nhint: mend them, or map other columns"
            )
    console.print("\nwhat is trained on is the assistant's. next: the same with BASE=, without SHOW=1", markup=False)


@_scratch()
def make(places: list[str], base: str, card: Card | None, asked: new_recipe.Asked, console: Console) -> Path:
    """Write recipes/NAME.yaml and params.yaml; returns the recipe. Overwrites nothing; says why it chose what."""
    taken: set[str] = set()
    found = new_base.look(base, asked.template)
    sets = [new_data.look(place, taken, asked.columns, asked.ignore, False) for place in places]
    if unknown := [one for one in asked.ignore or [] if not any(one in each.ignore for each in sets)]:
        raise NewError(
            f"--ignore {unknown[0]}: no set has such a column\nhint: name it as the file does, or leave it out"
        )
    name = asked.name or new_recipe.plain_name(f"{Path(base).name}-{sets[0].name}")
    target = Path("recipes") / f"{name}.yaml"
    if target.exists():
        raise NewError(f"{target} is there already\nhint: name another: NAME=…, or remove it")
    bringing = [*new_data.to_bring(sets), *new_base.to_bring(found)]
    for one in sets:
        _say_data(one, console)
    tokenizer = encoding.quick_tokenizer(found.folder)
    counts, own_system, shown, refused = _count(sets, asked.system or new_recipe.SYSTEM, found.template, tokenizer)
    if not counts:
        raise NewError(f"no row can be trained on: {_listed(refused)}\nhint: look at them: make new DATA=… SHOW=1")
    if refused:
        console.print(f"left out of the rows looked at: {_listed(refused)}", markup=False)
    text, tokens = new_recipe.written(name, sets, found, card, asked, counts, refused.total(), own_system)
    params = recipe.parsed(recipe.laid(text, target), target)  # before anything is written
    for origin, place in bringing:
        console.print(f"{origin} {new_data.linked(origin, place)} {place}", markup=False)
    target.parent.mkdir(exist_ok=True)
    target.write_text(text, encoding="utf-8")
    _, kept = recipe.use(target)
    if kept:
        console.print(f"the params in place before are kept in {kept}", markup=False)
    console.print(f"\n{target} is written, and params.yaml from it:\n", markup=False)
    console.print(text, markup=False, highlight=False)
    for number, encoded in shown:
        _say_conversation(number, encoded, tokenizer, console)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    console.print(plan.summary(params, card, tokens), markup=False)
    return target


def _count(sets: list[DataSet], system: str, template: str, tokenizer: Any):
    """Tokens of each conversation; the share with their own system prompt; two to show; what is left out, by reason."""
    counter = counting.Counter(tokenizer, template, 1 << 30)
    special = encoding.markers(tokenizer, template)
    counts, own, shown, refused = [], 0, [], Counter()
    for one in sets:
        fit_rows = []
        for number, messages in new_data.conversations(one, system, template, special):
            if isinstance(messages, str):
                refused[messages] += 1
            else:
                fit_rows.append((number, messages))
        own += sum(messages[0]["content"] != system for _, messages in fit_rows)
        counts += [each.tokens for each in counter([messages for _, messages in fit_rows])]
        source, end = encoding.jinja(template), encoding.END_OF_TURN[template]
        some = fit_rows[: max(1, SHOWN // len(sets))]
        shown += [
            (f"{one.name}, row {number:,}", encoding.encode(tokenizer, rows, source, end)) for number, rows in some
        ]
    return counts, own / max(1, len(counts)), shown[:SHOWN], refused


def _listed(reasons: Counter[str]) -> str:
    """`3 × empty user turn, …`, the most frequent first."""
    return ", ".join(f"{rows:,} × {reason}" for reason, rows in reasons.most_common())


def _say_data(found: DataSet, console: Console) -> None:
    """What was recognised, and what is not read."""
    more = "" if found.whole else " in its first 16 MB"
    console.print(
        f"{found.name}: {len(found.rows):,} rows{more}; columns: {new_recipe.flow(found.columns)}", markup=False
    )
    for note in found.notes:
        console.print(f"  {note}", markup=False)


def _say_conversation(place: str, encoded: encoding.Encoded, tokenizer: Any, console: Console) -> None:
    """As the model sees it; what is trained stands between ⟦ and ⟧, and is underlined."""
    console.print(
        f"{place}: {len(encoded.ids)} tokens, {sum(encoded.trained)} of them trained (between ⟦ and ⟧)", markup=False
    )
    text = Text()
    for piece in page.pieces(tokenizer, encoded):
        shown = page.visible(piece.text)
        text.append(f"⟦{shown}⟧" if piece.trained else shown, "bold underline green" if piece.trained else "")
    console.print(text)
