"""Conversations put together by a form are those that Jinja renders, and their answers stand where they stood."""

from __future__ import annotations

import random
from itertools import product

import pytest
from jinja2 import TemplateError

from ingot.chat import encoding, tokenizer
from ingot.chat.forms import form_of
from ingot.console.progress import StageError

SPECIAL = {template: {"bos_token": known.bos} for template, known in encoding.TEMPLATES.items()}
EVERY = pytest.mark.parametrize("template", encoding.TEMPLATES)
# What a template could look into: nothing, blanks, its own marks, thoughts, statements of Jinja, what stands for turns.
TEXTS = [
    "", " ", "\n", "\n\nx", "x\n", "  two  ", "\0", "\0001\0", "{{ bos_token }}", "{% if x %}",
    "<think>\na\n</think>\n\nb", "</think>",
    "assistant", "tool", "False", "0", "한국어", "🙂", "\u2028", "a\r\nb",
    *(mark for stops in encoding.STOPS.values() for mark in stops),
]  # fmt: skip


def of(template: str) -> tokenizer.Tokenizer:
    return tokenizer.Tokenizer(None, {key: value for key, value in SPECIAL[template].items() if value})


def orders(template: str) -> list[tuple[str, ...]]:
    """Roles of up to six turns, as rows may have them."""
    follows = {
        "system": ["user"], "user": ["assistant"], "assistant": ["user", "tool"], "tool": ["tool", "assistant"],
    }  # fmt: skip
    carried, found, todo = encoding.CARRIED[template], [], [("system",), ("user",)]
    while todo:
        roles = todo.pop()
        found += [roles] if roles[-1] == "assistant" else []
        if len(roles) < 6:
            todo += [(*roles, role) for role in follows[roles[-1]] if role in carried]
    return found


@EVERY
def test_conversations_by_their_form_are_those_of_jinja(template):
    draw, end, source = random.Random(1), encoding.END_OF_TURN[template], encoding.jinja(template)
    said = []
    for roles in orders(template):
        for first in TEXTS:  # each text in each kind of turn, beside others
            some = [first, *draw.choices(TEXTS, k=len(roles) - 1)]
            draw.shuffle(some)
            said.append([{"role": role, "content": text} for role, text in zip(roles, some, strict=True)])
    renderer = encoding.Renderer(of(template), source, end)
    assert renderer(said) == encoding._places(of(template), said, source, end)
    assert renderer.forms and None not in renderer.forms.values(), "all of them were put together"


@EVERY
def test_turns_without_a_form_are_left_to_jinja(template):
    """Two answers in a row, which have no place of their own, and orders that the template refuses."""
    source, end = encoding.jinja(template), encoding.END_OF_TURN[template]
    for roles in product(("user", "assistant", "system"), repeat=3):
        said = [{"role": role, "content": "x"} for role in roles]
        results = []
        for render in (encoding.Renderer(of(template), source, end), None):
            try:
                results.append(render([said]) if render else encoding._places(of(template), [said], source, end))
            except (StageError, TemplateError) as error:
                results.append(str(error))
        assert results[0] == results[1], roles


def test_a_template_that_is_not_ours_is_always_rendered():
    """One that cuts blanks: the form, which a text without blanks gave, would keep them."""
    source = "{% for message in messages %}<{{ message['content'] | trim }}>{% endfor %}"
    said = [[{"role": "assistant", "content": " x "}]]
    renderer = encoding.Renderer(of("chatml"), source, ">")
    assert renderer(said) == (["<x>"], [[(0, 3)]]) and not renderer.forms


def test_no_form_where_texts_are_left_out_turned_round_or_written_twice():
    def by(order):
        return lambda messages, ask: "".join(f"[{message['content']}]" for message in order(messages))

    roles = ("user", "assistant")
    assert form_of(by(lambda some: some), roles, "]")
    for order in (lambda some: some[::-1], lambda some: some[1:], lambda some: [*some, *some]):
        assert form_of(by(order), roles, "]") is None
    assert form_of(by(lambda some: some), roles, "<end>") is None, "no end token"
