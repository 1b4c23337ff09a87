"""The task score: how many held-out questions the base and the final file answer right, both asked alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ingot.chat.encoding import Encoded, Message
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.exact.files import write_json
from ingot.llama import apart, batch, gguf_check, llamacpp
from ingot.model import tokenizer_files
from ingot.proof import answers
from ingot.proof.answers import END_TOKEN, RAN_ON, SHOWN, STOP, Answer
from ingot.proof.params import Evaluation, Score
from ingot.serving.modelfile import Modelfile

# A sign stands before a number or its currency, and after nothing that it could subtract from ("48-24", "10 - 4").
# Commas group three digits each. A point counts where a digit follows, so the one that ends a sentence does not.
NUMBER = re.compile(
    r"(?P<sign>(?<![\w.,)%])[-−])?(?:[$€£¥₩]\s?)?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
)


@dataclass(frozen=True)
class Scored:
    """The same questions answered by both: `base` and `final` in the same order."""

    params: Score
    base: list[Answer]
    final: list[Answer]
    unchecked: int  # held-out rows that were passed over: their expected answer has nothing to compare

    def right(self, answer: Answer) -> bool:
        return key(self.params, answer.given) == key(self.params, answer.expected)

    def share(self, given: Sequence[Answer]) -> float:
        return round(sum(map(self.right, given)) / len(given), 4)

    def told(self) -> list[dict[str, Any]]:
        """Every question with both answers, for a person to look through."""
        return [
            {"question": final.question, "expected": final.expected}
            | {
                name: {"given": answer.given, "ended": answer.ended, "right": self.right(answer)}
                for name, answer in (("base", base), ("final", final))
            }
            for base, final in zip(self.base, self.final, strict=True)
        ]


def report(scored: Scored | None) -> dict[str, Any]:
    """What stands in reports/evaluation.json. An answer cut off counts like any other; `ended` has their shares."""
    if not scored:
        return {}
    ended = {name: answers.figures(given)["ended"] for name, given in (("base", scored.base), ("final", scored.final))}
    figures = {
        "match": scored.params.match,
        "asked": len(scored.final),
        "unchecked": scored.unchecked,
        "base": scored.share(scored.base),
        "final": scored.share(scored.final),
        "ended": ended,
    }
    return {"score": figures}


def summary(scored: Scored | None) -> list[str]:
    if not scored:
        return []
    base, final = scored.share(scored.base), scored.share(scored.final)
    return [f"{final:.1%} of {len(scored.final)} task questions answered right (base {base:.1%})"]


def breaches(scored: Scored | None) -> Iterator[str]:
    """What is wrong with a score below `least`, with an example."""
    if not scored or scored.params.least is None:
        return
    score, base, least = scored.share(scored.final), scored.share(scored.base), scored.params.least
    if score < least:
        wrong = next(answer for answer in scored.final if not scored.right(answer))
        yield (
            f"evaluation.score.least: too few of {len(scored.final)} questions are answered right ({score:.1%}, "
            f"at least {least:.1%} wanted; base {base:.1%})\n"
            "hint: train longer (adapter.epochs), take more data or a larger base, or lower evaluation.score.least. "
            "The first wrong answer:\n"
            f"  asked     {wrong.question}\n  expected  {wrong.expected}\n  given     {wrong.given[:SHOWN]}"
        )


def key(params: Score, text: str) -> str | Decimal | None:
    """What of an answer is compared: its last number, its whole text, or the pattern's last match. None: nothing."""
    if params.match == "exact":
        return text.strip() or None
    if params.match == "regex":
        found = [match[1] for match in re.finditer(params.pattern or "", text) if match[1] is not None]
        return found[-1].strip() if found else None
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return None
    value = Decimal(numbers[-1]["digits"].replace(",", ""))
    return -value if numbers[-1]["sign"] else value


def checkable(params: Score, rows: Iterable[dict]) -> tuple[list[list[Message]], int]:
    """The first conversations whose expected answer can be compared, and how many were passed over on the way.

    Raises StageError when there is none.
    """
    chosen, passed = [], 0
    for row in rows:
        if key(params, row["messages"][-1]["content"]) is None:
            passed += 1
        elif len(chosen) < params.prompts:
            chosen.append(row["messages"])
        else:
            break
    if not chosen:
        raise StageError(
            f"evaluation.score.match: no held-out answer has anything to compare ({params.match}, {passed} rows)\n"
            "hint: choose the match or pattern that fits the answers of build/dataset/eval.jsonl, or set "
            "evaluation.score to null"
        )
    return chosen, passed


def base_file(base: Path, template: str, half: Path, kind: str, matrix: Path, scratch: Path) -> Path:
    """The base as the served file was made: converted to the type of the 16-bit file `half`, quantised to `kind`.

    With `template`, the chat template trained with, and the final file's importance matrix where there is one.
    """
    model, whole, out = scratch / "base", scratch / "base-16-bit.gguf", scratch / f"base-{kind}.gguf"
    model.mkdir()
    tokenizer_files.files(base, template, model)
    for shard in base.glob("*.safetensors"):
        (model / shard.name).symlink_to(shard.resolve())
    llamacpp.convert(model, whole, "base", half.stem.rpartition("-")[2].lower())
    gguf_check.all_finite(gguf_check.open_file(whole))
    llamacpp.quantize(whole, out, kind, matrix if matrix.is_file() else None)
    whole.unlink()
    return out


def take(
    params: Evaluation,
    held_out: Iterable[dict],
    make_base: Callable[[Path], Path],
    final: Path,
    served: Modelfile,
    rows: Sequence[Encoded],
    out: Path,
) -> Scored | None:
    """With evaluation.score, ask both files the same questions, greedily, with the same stops and the same most tokens.

    Every answer goes to score.json in `out`. `make_base` makes the base's file in the folder that it is given. `rows`
    are some conversations as trained on: what they end with must end answers in llama.cpp (`answers.check_end`).
    """
    if not params.score:
        return None
    conversations, passed = checkable(params.score, held_out)
    with TemporaryDirectory(dir=out) as scratch:
        files = make_base(Path(scratch)), final
        given = [ask(file, served, conversations, rows, params.score.tokens, params.device) for file in files]
    scored = Scored(params.score, *given, passed)
    write_json(out / "score.json", scored.told())
    return scored


def ask(
    model: Path,
    served: Modelfile,
    conversations: Sequence[list[Message]],
    rows: Sequence[Encoded],
    tokens: int,
    device: str,
) -> list[Answer]:
    """As `answers.ask`, but many at once, and `tokens` at most in an answer."""
    given = apart.each(answered, model, served, conversations, rows, tokens, device)
    with progress.bar("scoring") as bar:
        by_number = dict(bar.track(given, total=len(conversations), description=f"scoring {model.name}"))
    return [by_number[number] for number in range(len(conversations))]


def answered(
    model: Path,
    served: Modelfile,
    conversations: Sequence[list[Message]],
    rows: Sequence[Encoded],
    tokens: int,
    device: str,
) -> Iterator[tuple[int, Answer]]:
    """The work of `ask`, for a process of its own: each answer with its question's number, as they end."""
    loaded = llamacpp.open_model(model, 256, device)  # this context is not used: batch.replies makes its own
    ends = llamacpp.end_tokens(loaded)
    answers.check_end(loaded, model, served, rows, ends)
    asked = list(answers.prompts(loaded, model, served, conversations, tokens))
    for number, text, stop in batch.replies(loaded, asked, served.stops, ends):
        question, expected = (message["content"] for message in conversations[number][-2:])
        yield number, Answer(question, expected, text, END_TOKEN if stop is None else STOP if stop else RAN_ON)
    loaded.close()
