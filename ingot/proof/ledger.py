"""The fidelity ledger: what each step from base to quantised file changes in the model's answers, in figures.

At every held-out token that was trained: the loss, and against the step before and the model that was trained the
divergence KL(p‖q) = Σ p·(log p − log q), p being that reference's distribution over the whole vocabulary and q this
step's, and whether both hold the same token likeliest. All in float64 from the float32 logits, so the figures as
rounded do not depend on who adds up.

One model is in memory at a time; logits that a later step is compared with lie in a scratch folder meanwhile, and are
read row by row. Loss is taken over all tokens, divergence over COMPARED of them at most, spread evenly: their mean is
known to some thousandths, and the scratch files, three at a time, stay below 7.5 GB with 152,000 words.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy

from ingot.chat.encoding import Encoded
from ingot.console.progress import StageError, bytes_
from ingot.proof.measure import Said, places
from ingot.proof.params import Limits

COMPARED = 4096
# Files of logits that lie in the scratch folder at once: the trained model's, the step before, the one being written.
AT_ONCE = 3
# The model that was trained: what the final file should say.
TRUTH = "adapter"
# What the step to it differs from the base by was learnt, not lost.
LEARNT = "learnt"


@dataclass(frozen=True)
class Boundary:
    """A step to be measured: `before` is compared with, `limit` the key of evaluation.limits that it is held to."""

    name: str
    before: str | None
    size: int  # bytes of its weights
    said: Callable[[], Iterator[Said]]  # of every row, in order
    limit: str | None = None


@dataclass
class Gap:
    """How far a step is from a reference, token by token."""

    kl: list[float] = field(default_factory=list)
    same: int = 0

    def add(self, reference: numpy.ndarray, logits: numpy.ndarray, normaliser: float) -> None:
        self.kl.append(divergence(reference, logits, normaliser))
        self.same += int(reference.argmax() == logits.argmax())

    def figures(self) -> dict[str, float]:
        """Mean and 99.9th percentile (of fewer than 1,000 tokens the greatest) in nats a token, and the share."""
        kl = sorted(self.kl)
        tail = kl[math.ceil(0.999 * len(kl)) - 1]
        return {
            "kl": round(math.fsum(kl) / len(kl), 5),
            "kl_999": round(tail, 4),
            "same_top": round(self.same / len(kl), 4),
        }


@dataclass
class Step:
    """A boundary as measured."""

    boundary: Boundary
    nats: float = 0.0  # negative log likelihood, summed over `tokens`
    tokens: int = 0
    read: int = 0  # tokens that went through the model in `seconds`
    seconds: float = 0.0
    words: int = 0  # of its vocabulary
    gaps: dict[str, Gap] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """Tokens at which it was compared with other steps."""
        return max((len(gap.kl) for gap in self.gaps.values()), default=0)

    def figures(self) -> dict[str, Any]:
        """What reports/evaluation.json holds: rounded to what is stable across processors."""
        loss = self.nats / self.tokens
        found = {
            "bytes": self.boundary.size,
            "loss": round(loss, 4),
            "perplexity": float(f"{math.exp(min(loss, 700)):.5g}"),
        }
        if before := self.gaps.get(self.boundary.before):
            figures = before.figures()
            found |= {LEARNT: figures} if self.boundary.name == TRUTH else figures
        if (truth := self.gaps.get(TRUTH)) and self.boundary.name != TRUTH:
            found["kl_to_adapter"] = truth.figures()["kl"]
        return found


def normaliser(logits: numpy.ndarray) -> float:
    """The logarithm of the sum of the exponentials: a token's log probability is its logit less this."""
    greatest = logits.max()
    return float(greatest + numpy.log(numpy.exp(logits - greatest).sum()))


def divergence(reference: numpy.ndarray, logits: numpy.ndarray, of_logits: float) -> float:
    """KL(reference‖logits) of two rows of float64 logits, the second's `normaliser` being given; never negative."""
    greatest = reference.max()
    weights = numpy.exp(reference - greatest)
    total = weights.sum()
    mean_difference = (weights * (reference - logits)).sum() / total
    return max(0.0, float(mean_difference - (greatest + numpy.log(total)) + of_logits))


def take(boundaries: Sequence[Boundary], rows: Sequence[Encoded], scratch: Path) -> list[Step]:
    """Measure every boundary. Raises StageError on logits that are no numbers, unlike vocabularies, too little disk."""
    steps: list[Step] = []
    folder = scratch / "logits"
    folder.mkdir()
    for number, boundary in enumerate(boundaries):
        later = {name for each in boundaries[number + 1 :] for name in (each.before, TRUTH)}
        with ExitStack() as files:
            references = {
                path.name: files.enter_context(path.open("rb"))
                for path in folder.iterdir()
                if path.name in (boundary.before, TRUTH)
            }
            kept = files.enter_context((folder / boundary.name).open("wb")) if boundary.name in later else None
            steps.append(_measured(boundary, rows, references, kept, steps[0].words if steps else None))
        for path in folder.iterdir():
            if path.name not in later:
                path.unlink()
    return steps


def _measured(
    boundary: Boundary,
    rows: Sequence[Encoded],
    references: dict[str, BinaryIO],
    kept: BinaryIO | None,
    words: int | None,
) -> Step:
    """One step of a vocabulary of `words`: its loss, its gaps to the `references`. Its logits go to `kept`."""
    step = Step(boundary, gaps={name: Gap() for name in references})
    tokens = sum(len(places(row)) for row in rows)
    stride = -(-tokens // COMPARED)
    for number, (row, (logits, seconds)) in enumerate(zip(rows, boundary.said(), strict=True)):
        step.read, step.seconds, step.words = step.read + len(row.ids), step.seconds + seconds, logits.shape[1]
        if words and step.words != words:
            raise StageError(
                f"{boundary.name} has {step.words} words, the step before it {words}: they cannot be compared"
            )
        if kept and not number:
            _room(Path(kept.name).parent, AT_ONCE * -(-tokens // stride) * logits[0].nbytes)
        for place, at in zip(places(row), logits, strict=True):
            if not numpy.isfinite(at).all():
                raise StageError(
                    f"{boundary.name}: what it says before token {place} of held-out row {number} holds NaN or "
                    "infinity: weights are damaged, or too large for float16 (f16.type: bf16). "
                    f"The row begins {row.text[:80]!r}"
                )
            values = at.astype(numpy.float64)
            total = normaliser(values)
            if step.tokens % stride == 0:
                for name, file in references.items():
                    reference = numpy.frombuffer(file.read(at.nbytes), at.dtype).astype(numpy.float64)
                    step.gaps[name].add(reference, values, total)
                if kept:
                    kept.write(at.tobytes())
            step.nats += total - float(values[row.ids[place]])
            step.tokens += 1
    return step


def _room(scratch: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(scratch).free):
        raise StageError(
            f"the ledger lays {bytes_(needed)} of logits down while it compares, and {bytes_(free)} are free on the "
            "volume of build/: free some, or lower evaluation.rows"
        )


def loses_most(steps: Sequence[Step], served: str) -> str:
    """Of the steps from the trained model to the served file, the one farthest from the step before, by mean."""
    by_name = {step.boundary.name: step for step in steps}
    way, name = [], served
    while name != TRUTH:
        way.append(by_name[name])
        name = by_name[name].boundary.before
    return max(reversed(way), key=lambda step: step.gaps[step.boundary.before].figures()["kl"]).boundary.name


def table(steps: Sequence[Step]) -> str:
    """The ledger for a person, with speeds, which differ in every run. As text: on a narrow screen nothing is cut."""
    heads = ["size", "loss", "perplexity", "KL to before", "99.9 %", "same top", "KL to adapter", "tokens/s"]
    lines = [["step", *heads]]
    for step in steps:
        figures = step.figures()
        gap = figures.get(LEARNT, figures)
        lines.append(
            [
                step.boundary.name,
                bytes_(step.boundary.size),
                f"{figures['loss']:.4f}",
                f"{figures['perplexity']:,.6g}",
                (f"{LEARNT} " if LEARNT in figures else "") + f"{gap['kl']:.5f}" if "kl" in gap else "",
                f"{gap['kl_999']:.4f}" if "kl" in gap else "",
                f"{gap['same_top']:.1%}" if "kl" in gap else "",
                f"{figures['kl_to_adapter']:.5f}" if "kl_to_adapter" in figures else "",
                f"{step.read / step.seconds:,.0f}",
            ]
        )
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([" ", name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for name, *cells in lines
    )


def tsv(steps: Sequence[Step]) -> str:
    """The same for `dvc plots`: one row a step, what a step has not being left empty."""
    keys = ["bytes", "loss", "perplexity", "kl", "kl_999", "same_top", "kl_to_adapter"]
    lines = [["step", *keys]]
    for step in steps:
        figures = step.figures()
        lines.append([step.boundary.name, *(str(figures.get(key, "")) for key in keys)])
    return "".join("\t".join(line) + "\n" for line in lines)


def metrics(report: dict[str, Any], served: str) -> dict[str, float]:
    """Of reports/evaluation.json the served file's figures, few and flat: `dvc exp show` puts each in a column."""
    found = {key: report["held_out"][served][key] for key in ("bytes", "loss", "kl_to_adapter")}
    found |= {"word_for_word": report["answers"]["word_for_word"], "ended": report["stops"]["ended"]}
    return found | ({"score": report["score"]["final"]} if "score" in report else {})


ADVICE = {
    "merged_kl": (
        "it is not the model that was trained: take the other merged.base (evaluation.merge_bases measures both)"
    ),
    "f16_kl": "the file is not the merged model: set f16.type to the type of the base's weights",
    "quantised_kl": "take a type of more bits (gguf.types), or an importance matrix (imatrix.text)",
}


def breaches(steps: Sequence[Step], limits: Limits) -> list[str]:
    """One line for each figure beyond its limit: the step, both numbers, what to do."""
    found = []
    for step in steps:
        boundary = step.boundary
        if not boundary.limit:
            continue
        gap = step.gaps[boundary.before].figures()
        if gap["kl"] > (limit := getattr(limits, boundary.limit)):
            found.append(
                f"{boundary.name}: KL divergence to {boundary.before} is {gap['kl']}, above evaluation.limits."
                f"{boundary.limit} ({limit}): {ADVICE[boundary.limit]}"
            )
        if gap["same_top"] < limits.same_top:
            found.append(
                f"{boundary.name}: the likeliest token is {boundary.before}'s at {gap['same_top']:.1%} of the places, "
                f"below evaluation.limits.same_top ({limits.same_top:.1%}): {ADVICE[boundary.limit]}"
            )
    return found
