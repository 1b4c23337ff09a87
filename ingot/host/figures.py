"""`make metrics`, `experiments` and `dag`: this build's figures and their change, those of experiments; the stages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from ingot.console import bounds
from ingot.console.messages import Fault
from ingot.host import verify

DATASET, ADAPTER, EVALUATION = (
    Path("reports") / name for name in ("dataset.json", "adapter/metrics.json", "evaluation.json")
)
# Of the ledger: a figure's key in evaluation.json, its name, its form. Of both sides of a change the same form.
COLUMNS = {
    "bytes": ("MB", lambda size: f"{size / 1e6:,.1f}"),
    "loss": ("loss", "{:.4f}".format),
    "perplexity": ("perplexity", "{:,.6g}".format),
    "kl": ("KL to before", "{:.5f}".format),
    "same_top": ("same top", "{:.1%}".format),
    "kl_to_adapter": ("KL to adapter", "{:.5f}".format),
}


class NoFigures(Fault):
    """There are no figures of this build."""


def show(console: Console) -> None:
    """Print the figures; below them what the last commit had otherwise, where DVC's cache has it. Raises NoFigures."""
    reports = {path: _read(path) for path in LINES}
    if not any(reports.values()):
        raise NoFigures("reports/ has no figures of a build\nhint: make repro")
    committed = verify.committed_files()
    for path, now in reports.items():
        if not now:
            continue
        before = _read(committed.get(str(path)))
        try:
            new, old = LINES[path](now), LINES[path](before) if before else ""
            console.print(new + (f"\n  was: {old}" if old not in ("", new) else ""), markup=False, highlight=False)
            if path == EVALUATION:
                console.print(_ledger(now["held_out"], (before or {}).get("held_out", {})))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise bounds.Broken(f"{path}: not as this version writes it ({error!r})\nhint: make repro") from None


def _dataset(made: dict[str, Any]) -> str:
    if "failed" in made:
        return f"dataset: its last run failed: {made['failed'].splitlines()[0]}"
    return (
        f"dataset: {made['train']:,} rows to train on, {made['eval']:,} held out, {made['dropped']:,} dropped; "
        f"{made['train_tokens']:,} tokens"
    )


def _adapter(made: dict[str, Any]) -> str:
    held_out = f", held-out loss {made['eval_loss']:.4f}" if "eval_loss" in made else ""
    return f"training: {made['step']:,} updates, loss {made['loss']:.4f}{held_out}"


def _answers(made: dict[str, Any]) -> str:
    known, new = made["answers"], made["stops"]
    ended = f"; {new['ended']:.0%} of {new['asked']} new ones to an end" if new["asked"] else ""
    return f"answers: {known['word_for_word']} of {known['asked']} training prompts word for word{ended}"


LINES = {DATASET: _dataset, ADAPTER: _adapter, EVALUATION: _answers}


def _ledger(now: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> Table:
    """A row a step, in the order of its making; a line below it where the last commit had other figures."""
    table = Table(box=None, pad_edge=False)
    table.add_column("step")
    for name, _ in COLUMNS.values():
        table.add_column(name, justify="right")
    order = ["base", "adapter", "merged", *(step for step in now if step.startswith("merged-")), "16-bit"]
    for step in [*(step for step in order if step in now), *(step for step in now if step not in order)]:
        new, old = _cells(now[step]), _cells(before.get(step, {}))
        table.add_row(step, *new)
        if any(old) and old != new:
            table.add_row("  was", *(o if o != n else "" for o, n in zip(old, new, strict=True)), style="dim")
    return table


def _cells(figures: dict[str, Any]) -> list[str]:
    figures = figures.get("learnt", {}) | figures
    return [form(figures[key]) if key in figures else "" for key, (_, form) in COLUMNS.items()]


def _read(path: Path | None) -> dict[str, Any] | None:
    return bounds.read_json(path, "run `make repro`, which writes it anew") if path and path.is_file() else None


# Columns of `dvc exp show` that are left out: date, state and hashes of deps. A param's name has no slash.
NO_FIGURE = r".*/|.*\.lock$|data$|models$|Created|State|Executor"


def experiments() -> int:
    """`dvc exp show` with the columns in which experiments differ; returns its status.

    All columns are about 170, of all params: the lines between them alone are wider than a terminal.
    """
    command = [sys.executable, "-m", "dvc", "exp", "show", "--only-changed", "--no-pager", "--drop", NO_FIGURE]
    return subprocess.run(command).returncode


def stages(console: Console) -> None:
    """Print each stage with what it does and which stages' outputs it takes."""
    dag = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    entries = {name: entry.get("do", entry) for name, entry in dag.items()}
    for stage, entry in entries.items():
        console.print(f"{stage:<12}{entry.get('desc', '')}", markup=False, highlight=False)
        takes = [other for other in entries if any(dep.startswith(f"build/{other}") for dep in entry["deps"])]
        if takes:
            console.print(f"{'':<12}takes {', '.join(takes)}", style="dim", markup=False, highlight=False)
