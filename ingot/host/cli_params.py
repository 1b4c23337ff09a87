"""The verbs on params.yaml, before anything is built: new, use, diff, plan, pin."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ingot.console.messages import Fault, plain
from ingot.host.cli_app import console, verb
from ingot.params.core import PARAMS_FILE
from ingot.planning import cards, validation
from ingot.planning import plan as planning
from ingot.planning import recipe as recipes
from ingot.sources import pinning

Gpu = Annotated[str | None, typer.Option(help="a card of ingot/planning/cards.yaml; without it this machine's, if any")]


@verb
def use(recipe: Path) -> None:
    """Put a recipe in place as params.yaml, and say what it will need."""
    params, kept = recipes.use(recipe)
    if kept:
        print(f"the params in place before are kept in {kept} (the demo's: git checkout params.yaml)")
    print(
        f"{recipe} is in place. It will need:\n{planning.summary(params, cards.here())}\n"
        "next: dvc repro --dry --force (walks it), then make repro"
    )


@verb
def diff() -> None:
    """What of params.yaml is not as in recipes/defaults.yaml."""
    for line in recipes.differences():
        print(plain(line))


@verb
def plan(
    gpu: Gpu = None, fit: Annotated[bool, typer.Option("--fit", help="write the fastest setting that fits")] = False
) -> None:
    """What params.yaml will need of disk, memory, time and money; whether it fits a card, and what would."""
    card = cards.find(gpu) if gpu else cards.here()
    if fit:
        if not card:
            raise Fault("no NVIDIA card is to be seen here\nhint: name one: make plan FIT=1 GPU=rtx3090")
        changed = planning.refit(validation.validate(), card)
        print("\n".join(f"{PARAMS_FILE}: {line}" for line in changed) or f"{PARAMS_FILE}: as fast as fits already")
    print(planning.summary(validation.validate(), card))


@verb
def new(
    data: Annotated[list[str], typer.Argument(help="files, folders, or repositories of the hub (OWNER/NAME:SPLIT)")],
    base: Annotated[str | None, typer.Option(help="a model's folder, or its name on the hub")] = None,
    gpu: Gpu = None,
    name: Annotated[str | None, typer.Option(help="of the model and the recipe")] = None,
    template: Annotated[str | None, typer.Option(help="where the base's own cannot be told")] = None,
    system: Annotated[str | None, typer.Option(help="the system prompt of rows that have none")] = None,
    columns: Annotated[str | None, typer.Option(help="the mapping, as dataset.mix has it")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="a column that is not to speak against its rows")] = None,
    length: Annotated[int | None, typer.Option(help="max_seq_length")] = None,
    epochs: Annotated[float | None, typer.Option()] = None,
    method: Annotated[str | None, typer.Option(help="lora or qlora")] = None,
    show: Annotated[bool, typer.Option("--show", help="only how the rows would be read; writes nothing")] = False,
) -> None:
    """Write a short recipe, and params.yaml, for files, a base and a card; says why each value was chosen."""
    from ingot.planning import new as beginning
    from ingot.planning.new_recipe import Asked  # it reads rows and tokenizers, which takes seconds to import

    # `make new DATA="a.jsonl b.csv"` gives one text; a name with blanks is a file of that name.
    try:
        data = [one for text in data for one in ([text] if Path(text).exists() else shlex.split(text) or [text])]
    except ValueError:
        raise Fault(f'DATA={data[0]}: a quote is not closed\nhint: put names with quotes or blanks into "…"') from None
    asked = Asked(name, template, system, columns, ignore, length, epochs, method)
    asked.check()
    out = console()
    if show:
        beginning.preview(data, asked, out)
        return
    if not base:
        raise Fault(
            "BASE: missing\n"
            "hint: a model's folder, or its name on the hub: BASE=models/mine; or SHOW=1 to look at the data"
        )
    card = cards.find(gpu) if gpu else cards.here()
    beginning.make(data, base, card, asked, out)
    ready = planning.locked(validation.validate().adapter)
    print("next: make repro" if ready else "next: make platform on the machine that will train, then make repro")


@verb
def pin() -> None:
    """Write the present commit of every unpinned repository into params.yaml."""
    found = pinning.pin()
    for repo, commit in found.items():
        print(f"{repo} is pinned to {commit}")
    print(f"{len(found)} revision{'' if len(found) == 1 else 's'} written to {PARAMS_FILE}")
