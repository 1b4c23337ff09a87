"""What reports/dataset.json says: every raw row accounted for, tokens by set, lengths, how full packed sequences are.

Lists are for the page.
"""

from __future__ import annotations

from typing import Any

import numpy

from ingot.mixing.pool import Drops
from ingot.mixing.sampling import Drawing, Drawn

BARS = 20  # of the histogram


def report(
    asked: dict[str, int], held_out: list[Drawn], train: list[Drawn], written: list[int], drawing: Drawing
) -> dict[str, Any]:
    """The figures. `asked` is each set's part of the mix, `written` its number of training rows, with repeated ones."""
    longest, drops, sources, lengths = drawing.counter.longest, drawing.drops, {}, []
    for apart, drawn, rows in zip(held_out, train, written, strict=True):
        pool = drawn.pool
        tokens = numpy.resize(numpy.array(drawn.tokens, dtype=numpy.int64), rows)
        lengths.append(tokens)
        dropped = drops.of(pool.name)
        taken = len(apart.index) + len(drawn.index)
        not_drawn = len(pool.row) - apart.tried - drawn.tried
        assert pool.raw == taken + sum(dropped.values()) + not_drawn, (
            f"{pool.name}: {pool.raw} rows, some unaccounted for"
        )
        sources[pool.name] = {
            "raw": pool.raw,
            "asked": asked[pool.name],
            "train": rows,
            "eval": len(apart.index),
            "repeated": rows - len(drawn.index),
            "not_drawn": not_drawn,
            "dropped": dropped,
            "train_tokens": int(tokens.sum()),
            "trained_tokens": int(numpy.resize(numpy.array(drawn.trained, dtype=numpy.int64), rows).sum()),
            "eval_tokens": sum(apart.tokens),
            "lengths": histogram(tokens, longest),
        }
    every = numpy.concatenate(lengths)
    sequences = packed(every, longest)
    return {
        "train": len(every),
        "eval": sum(len(drawn.index) for drawn in held_out),
        "train_tokens": int(every.sum()),
        "trained_tokens": sum(source["trained_tokens"] for source in sources.values()),
        "dropped": sum(sum(source["dropped"].values()) for source in sources.values()),
        "sources": sources,
        "max_seq_length": longest,
        "lengths": {"upto": bars(longest), "rows": histogram(every, longest)},
        "packing": {"sequences": sequences, "filled": round(int(every.sum()) / (sequences * longest), 4)},
        # Of the rows that are too long: what a cut at max_seq_length would lose of them.
        "too_long": {what: drawing.cut[what] for what in ("rows", "tokens", "trained")},
        "examples": _sorted(drops),
    }


def failed(why: str, drops: Drops, not_read: list[dict[str, Any]]) -> dict[str, Any]:
    """What there is to report of a dataset that was not made: why, and the rows that were dropped by then."""
    return {
        "failed": why,
        "dropped": sum(sum(counts.values()) for counts in drops.counts.values()),
        "sources": {name: {"dropped": drops.of(name)} for name in drops.counts},
        "examples": _sorted(drops),
        "unread": not_read,
    }


def _sorted(drops: Drops) -> list[dict[str, Any]]:
    return sorted(drops.examples, key=lambda shown: (shown["source"], shown["reason"], shown["row"]))


def lacking(sources: dict[str, Any]) -> list[str]:
    """A line for each set that has fewer rows than its part of the mix."""
    lines = []
    for name, source in sources.items():
        there = source["train"] - source["repeated"] + source["eval"]
        if there < source["asked"]:
            again = f", {source['repeated']:,} repeated" if source["repeated"] else ""
            lines.append(f"{name}: {source['asked']:,} asked, {there:,} there{again}")
    return lines


def uneven(sources: dict[str, Any], eval_share: float) -> list[str]:
    """A line for each set whose held-out part is far from `eval_share`, with what made it so."""
    lines = []
    for name, source in sources.items():
        there = source["train"] - source["repeated"] + source["eval"]
        if abs(source["eval"] - there * eval_share) < max(2.5, there * eval_share / 2):
            continue
        near = source["dropped"].get("near duplicate of a held-out row", 0)
        why = (
            f"{near:,} rows to train on were dropped for resembling them (dataset.clean.leaks)"
            if near and source["eval"] > there * eval_share
            else "which rows may be is decided by a hash of each: in few rows the part varies, in more it does not"
        )
        lines.append(
            f"{name}: {source['eval']:,} of {there:,} rows are held out ({source['eval'] / there:.0%}), where "
            f"dataset.eval_share asks for {eval_share:.0%}: {why}"
        )
    return lines


def bars(longest: int) -> list[int]:
    """Lengths that the histogram's bars reach to: `BARS` equal steps up to the longest that is trained on."""
    return [-(-longest * step // BARS) for step in range(1, BARS + 1)]


def histogram(lengths: numpy.ndarray, longest: int) -> list[int]:
    """Rows in each bar."""
    return numpy.histogram(lengths, bins=[0, *(upto + 1 for upto in bars(longest))])[0].tolist()


def packed(lengths: numpy.ndarray, longest: int) -> int:
    """How many sequences of `longest` tokens best fit decreasing makes of them, which is how TRL packs.

    The longest that is left goes where it leaves least room. Rows of one length are placed together, so that the time
    depends on the lengths that there are and not on the rows.
    """
    rows = numpy.bincount(lengths, minlength=longest + 1)
    room = numpy.zeros(longest + 1, dtype=numpy.int64)  # sequences by the room they have left
    sequences = 0
    for length in range(longest, 0, -1):
        left = int(rows[length])
        while left:
            with_room = numpy.flatnonzero(room[length:])
            space = length + int(with_room[0]) if len(with_room) else longest
            each = space // length  # the fullest stays the fullest until it has no room for one more
            if not len(with_room):
                room[longest] = -(-left // each)
                sequences += int(room[longest])
            whole = min(int(room[space]), left // each)
            part = left - whole * each if whole < room[space] else 0  # fewer than one more would take
            room[space] -= whole
            room[space - each * length] += whole
            if part:
                room[space] -= 1
                room[space - part * length] += 1
            left -= whole * each + part
    return sequences
