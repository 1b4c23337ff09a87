"""How a template writes conversations of given roles: what stands before, between and after the texts of their turns.

The templates here write each turn's text once and as it is, and nothing else hangs on it; a test holds them to that. So
one conversation of each sequence of roles is rendered by Jinja, and all others of it are put together from its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ingot.chat.tokens import Span

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Form:
    """The parts around the turns' texts, one more than turns; and the answers, whose loss is taken.

    An answer is its turn, and how many characters of the parts around it belong to it: before its text, after its text.
    """

    around: list[str]
    answers: list[tuple[int, int, int]]

    def filled(self, texts: Sequence[str]) -> tuple[str, list[Span]]:
        """The conversation of these texts, and where in it the answers stand with their end tokens."""
        parts = [self.around[0]]
        for text, after in zip(texts, self.around[1:], strict=True):
            parts += (text, after)
        ends = [*accumulate(map(len, parts))]
        spans = [(ends[2 * turn] - before, ends[2 * turn + 1] + after) for turn, before, after in self.answers]
        return "".join(parts), spans


def form_of(render: Callable[[Messages, bool], str], roles: Sequence[str], end: str) -> Form | None:
    """The form of conversations of these roles; `render` takes messages, and whether to open the assistant's turn.

    None where the template does not write each text once and in order, or what it writes of the first turns is not what
    it writes of them alone: then an answer has no place that the roles alone decide.
    """
    messages = [{"role": role, "content": f"\0{turn}\0"} for turn, role in enumerate(roles)]

    def around(some: Messages, ask: bool) -> list[str] | None:
        parts, rest = [], render(some, ask)
        for message in some:
            part, found, rest = rest.partition(message["content"])
            if not found:
                return None
            parts.append(part)
        return None if "\0" in rest + "".join(parts) else [*parts, rest]

    whole, answers = around(messages, False), []
    for turn, role in enumerate(roles):
        if role != "assistant":
            continue
        before = around(messages[:turn], True)
        upto = whole if turn + 1 == len(roles) else around(messages[: turn + 1], False)
        if not (whole and before and upto and _begins(whole, before) and _begins(whole, upto) and end in upto[-1]):
            return None
        # The end token is the last one of what the template writes after the text.
        answers.append((turn, len(whole[turn]) - len(before[turn]), upto[-1].rindex(end) + len(end)))
    return Form(whole, answers) if whole else None


def _begins(whole: list[str], first: list[str]) -> bool:
    """Whether a conversation begins with its first turns as they are written alone."""
    *same, last = first
    return whole[: len(same)] == same and whole[len(same)].startswith(last)
