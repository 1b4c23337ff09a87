"""dataset: map, clean, mix and split the raw sets into ChatML conversations.

Reads   params `dataset`, `raw`, `seed`, `template`, `max_seq_length`; build/raw, build/base (its tokenizer)
Writes  build/dataset/train.jsonl and eval.jsonl: {"source", "row", "tokens", "messages"} a line,
        build/dataset/chat_template.jinja: the template that everything downstream renders by,
        reports/dataset.json: rows and tokens by set, lengths, and what was dropped, why, with examples;
        reports/dataset.html: the same to look at, and what the model will see
"""

from functools import partial
from pathlib import Path

import numpy

from ingot.artifact import output_folder, write_json, write_text
from ingot.inside import chat, layouts, page, progress, rawfiles, tally
from ingot.inside.cleaning import Cleaner
from ingot.inside.conversations import Mapping
from ingot.inside.drawing import Drawing, Drawn, write_rows
from ingot.inside.pool import Drops, Pool, Spool, drop_equal, survey
from ingot.inside.progress import StageError
from ingot.params.core import Seed, SequenceLength, Template, load
from ingot.params.dataset import Dataset
from ingot.params.raw import Raw

RAW, BASE = Path("build/raw"), Path("build/base")
OUT, REPORT, PAGE = Path("build/dataset"), Path("reports/dataset.json"), Path("reports/dataset.html")


def main() -> None:
    params, sources = load("dataset", Dataset), load("raw", Raw).datasets
    seed, longest, template = load("seed", Seed), load("max_seq_length", SequenceLength), load("template", Template)
    with (
        progress.stage("dataset", f"mix {params.total_samples:,} rows of {len(params.mix)} datasets") as made,
        output_folder(OUT) as out,
    ):
        tokenizer = chat.load_tokenizer(BASE)
        chat.check_template(tokenizer, template)
        clean = Cleaner(params.clean, chat.special_tokens(tokenizer))
        spool, drops = Spool(out), Drops(params.unfit == "fail")
        # By name: DVC takes two mappings for equal whatever their order, so the order must not reach the result.
        names = sorted(params.mix)
        rows = {name: rawfiles.open_rows(RAW / name, name, sources[name], scratch=out) for name in names}
        for name in names:  # before any of the long work
            layouts.check(rows[name], name, params.mix[name].columns)
        pools = []
        for name in names:
            mapping = Mapping(params.mix[name], params.join, params.system, clean, template)
            pools.append(survey(rows.pop(name), name, mapping, seed, spool, drops))
        if params.clean.duplicates == "drop":
            drop_equal(pools, spool, drops)

        counter = chat.Counter(tokenizer, template, longest)
        with progress.bar("drawing") as bar:
            most = min(params.total_samples, sum(len(pool.row) for pool in pools))
            task = bar.add_task("drawing", total=most)
            apart = int(most * params.eval_share) + len(pools)  # held-out rows; each set rounds its own
            drew = partial(bar.advance, task)
            drawing = Drawing(params.clean, counter, spool, drops, most, apart, drew)
            held_out, train = split(params, pools, drawing)
        written = to_write(params, held_out, train)
        evals = [len(drawn.index) for drawn in held_out]
        with progress.bar("writing") as bar:
            wrote = partial(bar.advance, bar.add_task("writing", total=sum(written) + sum(evals)))
            write_rows(out / "eval.jsonl", held_out, evals, spool, wrote)
            write_rows(out / "train.jsonl", train, written, spool, wrote)
        write_text(out / "chat_template.jinja", chat.jinja(template))
        figures = tally.report(held_out, train, written, drawing)
        write_json(REPORT, figures)
        page.write(figures, page.seen(out / "train.jsonl", tokenizer, template, list(figures["sources"])), PAGE)
        made += [
            progress.quantity(figures["train"], "rows to train on"),
            progress.quantity(figures["eval"], "held out"),
            progress.quantity(figures["train_tokens"], "tokens"),
            progress.quantity(figures["dropped"], "dropped"),
        ]


def shares(params: Dataset) -> dict[str, int]:
    """Rows a set gives: its share of total_samples, rounded so that they add up (largest remainder first)."""
    whole = sum(part.share for part in params.mix.values())  # 1, but for what floats leave
    exact = {name: part.share / whole * params.total_samples for name, part in params.mix.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: params.total_samples - sum(counts.values())]:
        counts[name] += 1
    return counts


def split(params: Dataset, pools: list[Pool], drawing: Drawing) -> tuple[list[Drawn], list[Drawn]]:
    """Held-out rows and training rows of each set.

    A pool's rows stand in the order of their keys. Held-out rows are drawn from its beginning, training rows from its
    end: a row that more data pushes out of one side comes to lie between them, never on the other side. All held-out
    rows are drawn first, so that what resembles one of them, in whatever set, is kept out of training.
    """
    counts = shares(params)
    orders = [numpy.lexsort((pool.row, pool.key[:, 1], pool.key[:, 0])) for pool in pools]
    held_out, train = [], []
    for pool, order in zip(pools, orders, strict=True):
        evals = int(min(counts[pool.name], len(order)) * params.eval_share + 0.5)
        held_out.append(drawing(pool, order, evals, held_out=True))
    if not any(drawn.index for drawn in held_out):
        raise StageError(
            f"dataset.eval_share: {params.eval_share:g} of {params.total_samples} samples leaves no row to evaluate on"
        )
    for pool, order, apart in zip(pools, orders, held_out, strict=True):
        wanted = counts[pool.name] - len(apart.index)
        train.append(drawing(pool, order[apart.tried :][::-1], wanted, held_out=False))
        fit = len(apart.index) + len(train[-1].index)
        if fit < counts[pool.name] and (params.short == "fail" or not train[-1].index):
            why = ", ".join(f"{rows} × {reason}" for reason, rows in sorted(drawing.drops.of(pool.name).items()))
            raise StageError(
                f"dataset.mix.{pool.name}.share: asks for {counts[pool.name]:,} rows but {fit:,} fit"
                f"{f' (dropped: {why})' if why else ''}; "
                + (
                    "lower total_samples or the share, or set dataset.short to all or repeat"
                    if params.short == "fail"
                    else "none is left to train on"
                )
            )
    if not any(drawn.index for drawn in train):
        raise StageError(
            f"dataset.total_samples: {params.total_samples} leaves no row to train on beside the held-out ones"
        )
    return held_out, train


def to_write(params: Dataset, held_out: list[Drawn], train: list[Drawn]) -> list[int]:
    """How many training rows each set gives, repeated ones among them."""
    if params.short != "repeat":
        return [len(drawn.index) for drawn in train]
    counts = shares(params)
    return [counts[drawn.pool.name] - len(apart.index) for apart, drawn in zip(held_out, train, strict=True)]


if __name__ == "__main__":
    progress.start(main)
