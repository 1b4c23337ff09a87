"""dataset: map, clean, mix and split the raw sets into ChatML conversations.

Reads   params `dataset`, `raw`, `seed`, `template`, `max_seq_length`; build/raw, build/base (its tokenizer)
Writes  build/dataset/train.jsonl and eval.jsonl: {"source", "row", "tokens", "messages"} a line,
        build/dataset/train.arrow and eval.arrow: the same conversations as text, token ids and labels,
        build/dataset/chat_template.jinja: the template that everything downstream renders by,
        reports/dataset.json: rows and tokens by set, lengths, and what was dropped, why, with examples;
        reports/dataset.html: the same to look at, and what the model will see.
        Where the stage fails both say why, with rows that were dropped by then.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

from ingot.chat import counting, encoding
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.data import layouts, unread
from ingot.data.cleaning import Cleaner
from ingot.data.conversations import Mapping
from ingot.data.params import Dataset
from ingot.exact.files import output_folder, write_json, write_text
from ingot.mixing import dataset_report, page
from ingot.mixing.pool import Drops, Spool, drop_equal, survey
from ingot.mixing.sampling import Drawing
from ingot.mixing.splitting import shares, split, to_write
from ingot.params.core import Seed, SequenceLength, Template, load, nearest
from ingot.sources import raw_files
from ingot.sources.params import Raw, Source

RAW, BASE = Path("build/raw"), Path("build/base")
OUT, REPORT, PAGE = Path("build/dataset"), Path("reports/dataset.json"), Path("reports/dataset.html")


def main() -> None:
    params, sources = load("dataset", Dataset), load("raw", Raw).datasets
    seed, longest, template = load("seed", Seed), load("max_seq_length", SequenceLength), load("template", Template)
    # What is known by the time that the stage fails: unread columns, and of each phase what it has dropped.
    not_read, phases = [], [Drops(params.unfit == "fail")]
    with (
        progress.stage("dataset", f"mix {params.total_samples:,} rows of {len(params.mix)} datasets") as made,
        output_folder(OUT) as out,
    ):
        try:
            made += make(params, sources, seed, longest, template, out, not_read, phases)
        except StageError as error:
            figures = dataset_report.failed(str(error), phases[-1], not_read)
            write_json(REPORT, figures)
            page.write_failed(figures, PAGE)
            raise


def make(
    params: Dataset,
    sources: dict[str, Source],
    seed: int,
    longest: int,
    template: str,
    out: Path,
    not_read: list[dict[str, Any]],
    phases: list[Drops],
) -> list[str]:
    """The dataset in `out`, and its report; returns what there is to say of it."""
    asked = shares(params)
    tokenizer = encoding.quick_tokenizer(BASE)
    encoding.check_template(tokenizer, template)
    clean = Cleaner(params.clean, encoding.markers(tokenizer, template))
    spool, drops = Spool(out), phases[0]
    # By name: DVC takes two mappings for equal whatever their order, so the order must not reach the result.
    names = sorted(params.mix)
    if unknown := [name for name in names if name not in sources]:
        raise StageError(
            f"dataset.mix.{unknown[0]}: raw.datasets has no such dataset{nearest(unknown[0], list(sources))}"
        )
    rows, left, refused = {}, {name: {} for name in names}, {}
    for name in names:
        wanted = params.mix[name].columns.wanted()
        rows[name] = raw_files.open_rows(RAW / name, name, sources[name], out, wanted, left[name])
    for name in names:  # before any of the long work
        part = params.mix[name]
        layouts.check(rows[name], name, part.columns)
        not_read += unread.listed(rows[name], name, part, left[name])
    for line in unread.lines(not_read, {name: len(some) for name, some in rows.items()}):
        progress.console.print(f"  {line}", markup=False)
    for name in names:
        refused[name] = unread.telling(rows[name], name, params.mix[name], left[name], params.unfit == "fail")
    pools = []
    for name in names:
        mapping = Mapping(params.mix[name], params.join, params.system, clean, template)
        table = raw_files.is_table(RAW / name, name, sources[name])
        pools.append(survey(rows.pop(name), name, mapping, seed, spool, drops, refused[name], table))
        fields = unread.fields(mapping.unread, name, params.mix[name])
        for line in unread.lines(fields, {name: pools[-1].raw}):
            progress.console.print(f"  {line}", markup=False)
        not_read += fields
    drops.settle()
    if params.clean.duplicates == "drop":
        drop_equal(pools, spool, drops)

    counter = counting.Counter(tokenizer, template, longest)
    with progress.bar("drawing") as bar:
        most = min(params.total_samples, sum(len(pool.row) for pool in pools))
        task = bar.add_task("drawing", total=most)

        def begin(held_out: int) -> Drawing:
            bar.reset(task)
            phases.append(copy.deepcopy(drops))
            return Drawing(params.clean, counter, spool, phases[-1], most, held_out, partial(bar.advance, task), out)

        held_out, train, drawing = split(params, pools, drops, begin)
    written = to_write(params, held_out, train)
    evals = [len(drawn.index) for drawn in held_out]
    with progress.bar("writing") as bar:
        wrote = partial(bar.advance, bar.add_task("writing", total=sum(written) + sum(evals)))
        drawing.write(out / "eval", held_out, evals, wrote)
        drawing.write(out / "train", train, written, wrote)
    write_text(out / "chat_template.jinja", encoding.jinja(template))
    figures = dataset_report.report(asked, held_out, train, written, drawing) | (
        {"unread": not_read} if not_read else {}
    )
    write_json(REPORT, figures)
    page.write(figures, page.seen(out / "train", tokenizer, list(figures["sources"])), PAGE)
    for line in (
        *dataset_report.lacking(figures["sources"]),
        *dataset_report.uneven(figures["sources"], params.eval_share),
    ):
        progress.console.print(f"  {line}", markup=False)
    return [
        progress.quantity(figures["train"], "rows to train on"),
        progress.quantity(figures["eval"], "held out"),
        progress.quantity(figures["train_tokens"], "tokens"),
        progress.quantity(figures["dropped"], "dropped"),
    ]


if __name__ == "__main__":
    progress.start(main)
