"""The final file, asked: what it answers, and what ends each answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.chat.encoding import Encoded, Message
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.llama import apart, llamacpp
from ingot.proof.measure import places
from ingot.proof.params import Evaluation
from ingot.serving.modelfile import Modelfile

# What ends an answer: the end token, a stop of the Modelfile that is no end token, or nothing before it was cut off.
END_TOKEN, STOP, RAN_ON = "end_token", "stop", "ran_on"
SHOWN = 300  # characters of an answer that a message quotes


@dataclass(frozen=True)
class Answer:
    question: str
    expected: str
    given: str
    ended: str  # END_TOKEN, STOP or RAN_ON

    @property
    def by_itself(self) -> bool:
        return self.ended != RAN_ON

    @property
    def word_for_word(self) -> bool:
        """Blanks around an answer are the template's."""
        return self.by_itself and self.given.strip() == self.expected.strip()


def ask(
    model: Path, served: Modelfile, conversations: Sequence[list[Message]], rows: Sequence[Encoded], device: str
) -> list[Answer]:
    """Put each conversation's last question to the file, greedily, by its own template and the Modelfile's stops.

    Each from an empty memory, so that no answer depends on those before. Raises StageError unless the token that `rows`
    were trained to end with ends answers in llama.cpp and is among the stops.
    """
    given = apart.each(answered, model, served, conversations, rows, device)
    with progress.bar("asking") as bar:
        return list(bar.track(given, total=len(conversations), description=f"asking {model.name}"))


def answered(
    model: Path, served: Modelfile, conversations: Sequence[list[Message]], rows: Sequence[Encoded], device: str
) -> Iterator[Answer]:
    """The work of `ask`, for a process of its own."""
    loaded = llamacpp.open_model(model, int(served.parameters["num_ctx"]), device)
    ends = llamacpp.end_tokens(loaded)
    check_end(loaded, model, served, rows, ends)
    asked = prompts(loaded, model, served, conversations, int(served.parameters["num_predict"]))
    for messages, (prompt, room) in zip(conversations, asked, strict=True):
        loaded.reset()
        text, ended = _reply(loaded, prompt, room, served.stops, ends)
        yield Answer(messages[-2]["content"], messages[-1]["content"], text, ended)
    loaded.close()


def prompts(
    loaded, model: Path, served: Modelfile, conversations: Sequence[list[Message]], tokens: int
) -> Iterator[tuple[list[int], int]]:
    """Each conversation's last question by the file's own template as token ids, and how many tokens its answer may
    have: `tokens`, or what the context has left. Raises StageError where that is nothing.
    """
    render = llamacpp.chat_template(loaded, model)
    for messages in conversations:
        prompt = loaded.tokenize(render(messages=messages[:-1]).prompt.encode(), add_bos=False, special=True)
        room = min(tokens, int(served.parameters["num_ctx"]) - len(prompt))
        if room < 1:
            raise StageError(
                f"modelfile.num_ctx: {served.parameters['num_ctx']}: a prompt of {len(prompt)} tokens leaves no room "
                f"for an answer: raise it. The prompt:\n{messages[-2]['content'][:SHOWN]}"
            )
        yield prompt, room


def check_end(loaded, model: Path, served: Modelfile, rows: Sequence[Encoded], ends: set[int]) -> None:
    """Raise StageError unless the token that answers were trained to end with ends them wherever they are served."""
    for token in sorted({row.ids[places(row)[-1]] for row in rows}):
        text = loaded.detokenize([token], special=True).decode()
        if token not in ends:
            known = ", ".join(loaded.detokenize([end], special=True).decode() for end in sorted(ends)) or "nothing"
            raise StageError(
                f"{model.name}: answers were trained to end with {text!r}, but llama.cpp ends them at {known}: take a "
                "template that ends with the base's eos_token, or a base that has the template's"
            )
        if text not in served.stops:
            raise StageError(
                f"answers were trained to end with {text!r}, which is none of the Modelfile's stops "
                f"({', '.join(served.stops) or 'it has none'}): run `dvc repro modelfile`"
            )


def _reply(loaded, prompt: list[int], room: int, stops: list[str], ends: set[int]) -> tuple[str, str]:
    """The answer, of `room` tokens at most, and what ended it. Control tokens are text here, as they are to Ollama."""
    said = b""
    for number, token in enumerate(loaded.generate(prompt, temp=0.0), 1):
        if token in ends:
            return said.decode("utf-8", "replace"), END_TOKEN
        said += loaded.detokenize([token], special=True)
        if found := [at for stop in stops if (at := said.find(stop.encode())) >= 0]:
            return said[: min(found)].decode("utf-8", "replace"), STOP
        if number == room:
            break
    return said.decode("utf-8", "replace"), RAN_ON


def figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """How many were asked, the share that ended by itself, and what ended how many."""
    ways = {way: sum(answer.ended == way for answer in answers) for way in (END_TOKEN, STOP, RAN_ON)}
    ended = sum(answer.by_itself for answer in answers)
    return {"asked": len(answers), "ended": round(ended / max(len(answers), 1), 4), **ways}


def breaches(known: Sequence[Answer], new: Sequence[Answer], params: Evaluation) -> Iterator[str]:
    """What answers to training prompts (`known`) and held-out ones (`new`) lack of what params ask, with an example."""
    if (exact := sum(answer.word_for_word for answer in known)) < params.word_for_word:
        wrong = next(answer for answer in known if not answer.word_for_word)
        yield (
            f"{exact} of {len(known)} training prompts are answered word for word; evaluation.word_for_word asks "
            f"for {params.word_for_word}. Train longer (adapter.epochs), or lower it. The first that differs:\n"
            f"  asked     {wrong.question}\n  expected  {wrong.expected}\n  given     {wrong.given}"
        )
    if (ended := figures(new)["ended"]) < params.limits.ended:
        on = next(answer for answer in new if not answer.by_itself)
        yield (
            f"{ended:.1%} of the answers to {len(new)} held-out prompts end by themselves, less than "
            f"evaluation.limits.ended ({params.limits.ended:.1%}): the model has not learnt where to end: train longer "
            "(adapter.epochs), or raise modelfile.num_predict if its answers are long. The first that ran on:\n"
            f"  asked     {on.question}\n  given     {on.given[:SHOWN]}"
        )
