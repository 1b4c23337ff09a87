"""dataset: normalise, mix and split the raw sets into ChatML conversations.

Reads   params `dataset`, `raw`, `seed`, `template`, `max_seq_length`; build/raw, build/base (its tokenizer)
Writes  build/dataset/train.jsonl and eval.jsonl: {"source", "row", "tokens", "messages"} a line,
        build/dataset/chat_template.jinja: the template that everything downstream renders by,
        reports/dataset.json: counts by source
"""

import random
from collections import Counter
from pathlib import Path

from ingot.artifact import output_folder, write_json, write_jsonl, write_text
from ingot.inside import chat, conversations, progress
from ingot.inside.conversations import Unfit
from ingot.inside.progress import StageError
from ingot.params.core import Seed, SequenceLength, Template, load
from ingot.params.dataset import Dataset, Part
from ingot.params.raw import Raw

RAW, BASE = Path("build/raw"), Path("build/base")
OUT, REPORT = Path("build/dataset"), Path("reports/dataset.json")


def main() -> None:
    params, sources = load("dataset", Dataset), load("raw", Raw).datasets
    seed, longest, template = load("seed", Seed), load("max_seq_length", SequenceLength), load("template", Template)
    with progress.stage("dataset", f"mix {params.total_samples:,} rows of {len(params.mix)} datasets") as made:
        tokenizer = chat.load_tokenizer(BASE)
        chat.check_template(tokenizer, template)
        pick = Picker(params, seed, longest, template, tokenizer)
        train, held_out, counts = [], [], {}
        # By name: DVC takes two mappings for equal whatever their order, so the order must not reach the result.
        for name, count in sorted(shares(params).items()):
            rows = conversations.read(RAW / name, name, sources[name])
            picked, dropped = pick(rows, name, params.mix[name], count)
            for_eval, for_train = split(picked, name, count, params)
            held_out += for_eval
            train += for_train
            counts[name] = {"raw": len(rows), "train": len(for_train), "eval": len(for_eval), "dropped": dict(dropped)}
        if not held_out:
            raise StageError(
                f"dataset.eval_share: {params.eval_share:g} of {params.total_samples} samples leaves no row to evaluate on"
            )
        random.Random(seed).shuffle(train)
        with output_folder(OUT) as out:
            write_jsonl(out / "train.jsonl", train)
            write_jsonl(out / "eval.jsonl", held_out)
            write_text(out / "chat_template.jinja", chat.jinja(template))
        tokens = sum(row["tokens"] for row in train)
        write_json(REPORT, {"train": len(train), "eval": len(held_out), "train_tokens": tokens, "sources": counts})
        made += [
            progress.quantity(len(train), "rows to train on"),
            progress.quantity(len(held_out), "held out"),
            progress.quantity(tokens, "tokens"),
            progress.quantity(sum(sum(c["dropped"].values()) for c in counts.values()), "dropped"),
        ]


def shares(params: Dataset) -> dict[str, int]:
    """Rows a set gives: its share of total_samples, rounded so that they add up (largest remainder first)."""
    exact = {name: part.share * params.total_samples for name, part in params.mix.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: params.total_samples - sum(counts.values())]:
        counts[name] += 1
    return counts


def split(picked: list[dict], name: str, count: int, params: Dataset) -> tuple[list[dict], list[dict]]:
    """Held-out rows and training rows, and what `dataset.short` says when there are fewer than `count`.

    Rows are held out before any is repeated, so that none is on both sides.
    """
    if len(picked) < count and (params.short == "fail" or not picked):
        raise StageError(
            f"dataset.mix.{name}.share: asks for {count:,} rows but {len(picked):,} fit; "
            "lower total_samples or the share, or set dataset.short to all or repeat"
        )
    evals = int(min(count, len(picked)) * params.eval_share + 0.5)
    for_eval, for_train = picked[:evals], picked[evals:]
    if params.short == "repeat" and for_train:
        for_train = [for_train[i % len(for_train)] for i in range(count - evals)]
    return for_eval, for_train


class Picker:
    """Draws rows of one set in an order that only the seed and the set's name decide, until enough fit."""

    def __init__(self, params: Dataset, seed: int, longest: int, template: str, tokenizer):
        self.params, self.seed, self.longest, self.tokenizer = params, seed, longest, tokenizer
        self.source, self.end = chat.jinja(template), chat.END_OF_TURN[template]
        self.special = chat.special_tokens(tokenizer)

    def __call__(self, rows, name: str, part: Part, count: int) -> tuple[list[dict], Counter]:
        """`count` rows as conversations, and how many were dropped by reason."""
        conversations.check_columns(rows, name, part.columns)
        order = random.Random(f"{self.seed}:{name}").sample(range(len(rows)), len(rows))
        picked, dropped = [], Counter()
        with progress.bar(name) as bar:
            for index in bar.track(order, total=count, description=name):
                if len(picked) == count:
                    break
                try:
                    picked.append(self.one(rows[index], name, part, index))
                except Unfit as reason:
                    if self.params.unfit == "fail":
                        raise StageError(
                            f"raw.datasets.{name}, row {index}: {reason}. Mend the row, or set dataset.unfit: drop"
                        ) from None
                    dropped[str(reason)] += 1
        return picked, dropped

    def one(self, row: dict, name: str, part: Part, index: int) -> dict:
        messages = conversations.conversation(row, part, self.params.join, self.params.system, self.special)
        tokens = len(chat.encode(self.tokenizer, messages, self.source, self.end).ids)
        if tokens > self.longest:
            raise Unfit(f"more than max_seq_length ({self.longest}) tokens")
        return {"source": name, "row": index, "tokens": tokens, "messages": messages}


if __name__ == "__main__":
    progress.start(main)
