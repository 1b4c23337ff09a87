"""How many rows each set gives, and which of them are held out: shares, the split, repeats."""

from __future__ import annotations

from collections.abc import Callable

import numpy

from ingot.console.progress import StageError
from ingot.data.params import Dataset
from ingot.mixing.pool import Drops, Pool
from ingot.mixing.sampling import Drawing, Drawn


def shares(params: Dataset) -> dict[str, int]:
    """Rows a set gives: its share of total_samples, rounded so that they add up (largest remainder first)."""
    whole = sum(part.share for part in params.mix.values())  # 1, but for what floats leave
    exact = {name: part.share / whole * params.total_samples for name, part in params.mix.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: params.total_samples - sum(counts.values())]:
        counts[name] += 1
    if none := [name for name in counts if not counts[name]]:
        raise StageError(
            f"dataset.mix.{none[0]}.share: {params.mix[none[0]].share:g} of {params.total_samples:,} samples rounds "
            "to no row: raise it or total_samples, or take the set out of the mix"
        )
    return counts


def split(
    params: Dataset, pools: list[Pool], drops: Drops, begin: Callable[[int], Drawing]
) -> tuple[list[Drawn], list[Drawn], Drawing]:
    """Held-out rows and training rows of each set, and the drawing that took them.

    A row's key, which is its content's, decides on which side of the split it may be: no row ever moves to the other,
    whatever is added or dropped. Held-out rows are drawn from the lowest key up, training rows from the highest down,
    so that more data changes few of them. All held-out rows are drawn first: what resembles one of them, in whatever
    set, is kept out of training.
    """
    counts = shares(params)
    orders, aside, wanted = [], [], []
    for pool in pools:
        if not len(pool.row):
            raise StageError(
                f"raw.datasets.{pool.name}: none of its {pool.raw:,} rows is left{drops.told(pool.name)}; mend them, "
                f"map other columns (dataset.mix.{pool.name}.columns), loosen dataset.clean, "
                "or take the set out of the mix"
            )
        orders.append(numpy.lexsort((pool.row, pool.key[:, 1], pool.key[:, 0])))
        aside.append(int((pool.key[:, 0] < numpy.uint64(params.eval_share * 2**64)).sum()))
        # Where the other side has too few rows this one gives more: a set's part of the mix is exact whatever the keys.
        lacking = counts[pool.name] - (len(pool.row) - aside[-1])
        wanted.append(min(aside[-1], max(int(counts[pool.name] * params.eval_share + 0.5), lacking)))
    while True:
        drawing = begin(sum(wanted))
        held_out = [
            drawing(pool, order[:side], rows, held_out=True)
            for pool, order, side, rows in zip(pools, orders, aside, wanted, strict=True)
        ]
        if not any(drawn.index for drawn in held_out):
            raise StageError(_none_held_out(params, pools, aside, wanted, drops, drawing.drops))
        train, more = [], []
        for pool, order, side, apart in zip(pools, orders, aside, held_out, strict=True):
            rest = counts[pool.name] - len(apart.index)
            train.append(drawing(pool, order[side:][::-1], rest, held_out=False))
            more.append(min(rest - len(train[-1].index), side - apart.tried))
            if not more[-1]:
                _enough(params, counts[pool.name], apart, train[-1], drawing.drops)
        if not any(drawn.index for drawn in train):
            raise StageError(
                f"dataset.total_samples: {params.total_samples} leaves no row to train on beside the held-out ones: "
                "raise it"
            )
        if not any(more):
            return held_out, train, drawing
        # Dropped rows left a set short on one side while the other has some to spare: drawn anew, with those.
        wanted = [rows + some for rows, some in zip(wanted, more, strict=True)]
        del drawing  # its indexes, before there are others


def _none_held_out(
    params: Dataset, pools: list[Pool], aside: list[int], wanted: list[int], before: Drops, drops: Drops
) -> str:
    names, left = [pool.name for pool in pools], sum(len(pool.row) for pool in pools)
    if any(wanted):
        return (
            f"dataset: {drops.listed(*names, since=before)}: so none of the {sum(aside):,} rows is left that may be "
            f"held out (eval_share: {params.eval_share:g}); loosen what drops them, mend the rows, or add others"
        )
    if any(aside):
        why = f"of each set's part of {params.total_samples:,} samples it rounds to none"
    else:
        why = f"{sum(aside):,} of the {left:,} rows that are left may be held out, which a hash of each decides"
    return (
        f"dataset.eval_share: {params.eval_share:g} leaves no row to evaluate on: {why}{drops.told(*names)}; "
        "raise it or total_samples, or add rows"
    )


def _enough(params: Dataset, count: int, apart: Drawn, drawn: Drawn, drops: Drops) -> None:
    """Raise StageError where a set gives too few rows, and that is not allowed or leaves it nothing to train on."""
    name, fit = drawn.pool.name, len(apart.index) + len(drawn.index)
    if fit == count or (drawn.index and params.short != "fail"):
        return
    raise StageError(
        f"dataset.mix.{name}.share: asks for {count:,} rows but {fit:,} fit{drops.told(name)}; "
        + (
            "lower total_samples or the share, or set dataset.short to all or repeat"
            if params.short == "fail"
            else f"{len(apart.index):,} of them are held out, and none is left to train on: "
            "add rows, or lower eval_share"
        )
        + _alike(drops, name)
    )


def _alike(drops: Drops, name: str) -> str:
    """The keys that decide on near duplicates, where most of what was dropped are such."""
    counts = drops.of(name)
    near = sum(rows for reason, rows in counts.items() if reason.startswith("near duplicate"))
    if 2 * near <= sum(counts.values()):
        return ""
    return (
        "\n  hint: rows that differ in a few words are no duplicates where the rest is a form: raise "
        "dataset.clean.near_duplicates and dataset.clean.leaks, or set them to null"
    )


def to_write(params: Dataset, held_out: list[Drawn], train: list[Drawn]) -> list[int]:
    """How many training rows each set gives, repeated ones among them."""
    if params.short != "repeat":
        return [len(drawn.index) for drawn in train]
    counts = shares(params)
    return [counts[drawn.pool.name] - len(apart.index) for apart, drawn in zip(held_out, train, strict=True)]
