"""Our chat templates against those that the families publish, rendered by transformers, conversation by conversation.

The published ones are files of llama.cpp/models/templates, or strings of llama.cpp/tests/test-chat-template.cpp. Where
one renders otherwise than ours, a function below says how, by its name, and the rest must be equal.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from ingot.chat import encoding
from tests.conftest import ROOT

LLAMA = ROOT / "llama.cpp"
SYSTEM = {"role": "system", "content": "Be brief.\n짧게."}
TURNS = [
    {"role": "user", "content": "A bond? 🙂"},
    {"role": "assistant", "content": "A loan\n\nthat trades."},
    {"role": "user", "content": "A share?"},
    {"role": "assistant", "content": "A part of a company."},
]
THOUGHT = {"role": "assistant", "content": "<think>\nA loan?\n</think>\n\nA loan."}
TOOL = [{"role": "assistant", "content": "look"}, {"role": "tool", "content": "42"}]
PADDED = [{"role": turn["role"], "content": f"  {turn['content']} "} for turn in [SYSTEM, *TURNS]]
CONVERSATIONS = {
    "one question": TURNS[:1],
    "an answer": TURNS[:2],
    "two questions": TURNS[:3],
    "two answers": TURNS,
    "a thought before the last question": [TURNS[0], THOUGHT, TURNS[2]],
    "a thought in the last answer": [*TURNS[:3], THOUGHT],
    "spaces around each turn": PADDED[1:],
    "a tool": [TURNS[0], *TOOL, TURNS[3]],
}
CONVERSATIONS |= {f"{name}, after a system prompt": [SYSTEM, *turns] for name, turns in CONVERSATIONS.items()}


# --- how published templates differ from ours. Each makes, of a conversation, the one that ours renders as they do it


def default_system_prompt(prompt: str):
    def default_system_prompt(turns, ask):
        return turns if turns[0]["role"] == "system" else [{"role": "system", "content": prompt}, *turns]

    return default_system_prompt


def date_in_system_prompt(day: str | None = None):
    """Today's, unless there is a fixed one."""

    def date_in_system_prompt(turns, ask):
        date = f"Cutting Knowledge Date: December 2023\nToday Date: {day or time.strftime('%d %b %Y')}\n\n"
        own, turns = (turns[0]["content"], turns[1:]) if turns[0]["role"] == "system" else ("", turns)
        return [{"role": "system", "content": date + own}, *turns]

    return date_in_system_prompt


def spaces_are_trimmed(turns, ask):
    return [turn | {"content": turn["content"].strip()} for turn in turns]


def spaces_are_trimmed_but_in_the_system_prompt(turns, ask):
    """Nor between it and the first question."""
    trimmed = spaces_are_trimmed(turns, ask)
    if turns[0]["role"] == "system":
        trimmed[:2] = [turns[0], turns[1] | {"content": turns[1]["content"].rstrip()}]
    return trimmed


def system_prompt_before_the_last_question(turns, ask):
    """And nowhere, where the conversation ends with an answer."""
    if turns[0]["role"] != "system":
        return turns
    system, *turns = turns
    return [*turns[:-1], turns[-1] | {"content": f"{system['content']}\n\n{turns[-1]['content']}"}] if ask else turns


def thoughts_are_cut(turns, ask):
    return [turn | {"content": turn["content"].split("</think>")[-1]} for turn in turns]


def thoughts_in_the_last_answer_alone(turns, ask):
    """There always, though they may be empty."""
    cut = [turn | {"content": turn["content"].split("</think>")[-1].lstrip("\n")} for turn in turns]
    if not ask and "<think>" not in turns[-1]["content"]:
        cut[-1]["content"] = "<think>\n\n</think>\n\n" + turns[-1]["content"]
    return cut if ask else [*cut[:-1], turns[-1] if "<think>" in turns[-1]["content"] else cut[-1]]


def tool_speaks_as_user(turns, ask):
    return [
        {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
        if turn["role"] == "tool"
        else turn
        for turn in turns
    ]


def tool_speaks_json(turns, ask):
    return [turn | {"content": json.dumps(turn["content"])} if turn["role"] == "tool" else turn for turn in turns]


# --- of ours as text, what they write


def no_spaces_around_an_answer(text, ask):
    return re.sub(r"\[/INST\] (.*?) </s>", r"[/INST]\1</s>", text, flags=re.S)


def a_bos_before_each_question_but_the_first(text, ask):
    """The first one is the server's to add."""
    return text.removeprefix("<s>").replace("</s>[INST]", "</s><s>[INST]")


def an_opened_thought(text, ask):
    return text + "<think>\n" * ask


def an_empty_thought(text, ask):
    return text + "<think>\n</think>" * ask


@dataclass(frozen=True)
class Published:
    """A published template and which of ours is to render as it does."""

    template: str
    turns: tuple[Callable, ...] = ()  # differences
    text: tuple[Callable, ...] = ()
    takes: Callable = lambda turns: True  # whether it takes a conversation that ours takes, or refuses it


def no_system_prompt(turns):
    return turns[0]["role"] != "system"


QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
VIGOGNE = (
    "Vous êtes Vigogne, un assistant IA créé par Zaion Lab. Vous suivez extrêmement bien les instructions. "
    "Aidez autant que vous le pouvez."
)
R1 = {"turns": (thoughts_are_cut,), "text": (an_opened_thought,)}
PUBLISHED = {
    "teknium/OpenHermes-2.5-Mistral-7B": Published("chatml"),
    "Qwen-Qwen2.5-7B-Instruct.jinja": Published("chatml", (tool_speaks_as_user, default_system_prompt(QWEN))),
    "Qwen-Qwen3-0.6B.jinja": Published("chatml", (tool_speaks_as_user, thoughts_in_the_last_answer_alone)),
    "meta-llama-Llama-3.1-8B-Instruct.jinja": Published(
        "llama3", (spaces_are_trimmed, tool_speaks_json, date_in_system_prompt("26 Jul 2024"))
    ),
    "meta-llama-Llama-3.2-3B-Instruct.jinja": Published(
        "llama3", (spaces_are_trimmed, tool_speaks_json, date_in_system_prompt())
    ),
    "meta-llama-Llama-3.3-70B-Instruct.jinja": Published(
        "llama3", (spaces_are_trimmed, tool_speaks_json, date_in_system_prompt("26 Jul 2024"))
    ),
    "bofenghuang/vigogne-2-70b-chat": Published(
        "llama2", (default_system_prompt(VIGOGNE), spaces_are_trimmed_but_in_the_system_prompt)
    ),
    "TheBloke/FusionNet_34Bx2_MoE-AWQ": Published(
        "llama2", text=(a_bos_before_each_question_but_the_first,), takes=lambda turns: not no_system_prompt(turns)
    ),
    "mistralai/Mistral-7B-Instruct-v0.2 (NOTE: Old pre-v1 without a system prompt)": Published(
        "llama2", text=(no_spaces_around_an_answer,), takes=no_system_prompt
    ),
    "mistralai-Mistral-Nemo-Instruct-2407.jinja": Published("mistral", (system_prompt_before_the_last_question,)),
    "google-gemma-2-2b-it.jinja": Published("gemma", (spaces_are_trimmed,), takes=no_system_prompt),
    "phi-4": Published("phi4"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja": Published("deepseek-r1", **R1),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja": Published(
        "deepseek-r1", (thoughts_are_cut,), (an_empty_thought,)
    ),
}  # fmt: skip


def source(name: str) -> str:
    """A published template, by its file's name or as llama.cpp's test has it."""
    if name.endswith(".jinja"):
        return (LLAMA / "models/templates" / name).read_text(encoding="utf-8")
    cases = (LLAMA / "tests/test-chat-template.cpp").read_text(encoding="utf-8")
    case = re.escape(json.dumps(name)) + r',\s*/\* .template_str= \*/ ("(?:[^"\\]|\\.)*")'
    return json.loads(re.search(case, cases)[1])


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    """One that has the template's BOS and end: no template reads more of it."""
    marks = encoding.TEMPLATES[template]
    words = Tokenizer(WordLevel({marks.end: 0}, marks.end))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=marks.bos, eos_token=marks.end)


def test_every_template_of_ours_is_published():
    assert {published.template for published in PUBLISHED.values()} == set(encoding.TEMPLATES)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_template_renders_as_the_published_one(name):
    published, theirs = PUBLISHED[name], source(name)
    words, ours = tokenizer(published.template), encoding.jinja(published.template)
    seen = set()
    for said, turns in CONVERSATIONS.items():
        if not {turn["role"] for turn in turns} <= set(encoding.CARRIED[published.template]):
            continue
        ask = turns[-1]["role"] == "user"
        if not published.takes(turns):
            if no_system_prompt(turns):
                continue  # FusionNet's gives such a question no [INST]
            with pytest.raises(TemplateError):
                encoding.render(words, turns, theirs, ask)
            continue
        like, text = turns, encoding.render(words, turns, theirs, ask)
        for difference in published.turns:
            before, like = like, difference(like, ask)
            seen |= {difference} if like != before else set()
        rendered = encoding.render(words, like, ours, ask)
        for difference in published.text:
            before, rendered = rendered, difference(rendered, ask)
            seen |= {difference} if rendered != before else set()
        assert rendered == text, said
    assert seen == {*published.turns, *published.text}, "a difference that no conversation shows"


def test_gemmas_system_prompt_stands_before_the_first_question():
    """As in Gemma 3's own template, which llama.cpp does not have; Gemma 2's refuses one."""
    question = {"role": "user", "content": f"{SYSTEM['content']}\n\n{TURNS[0]['content']}"}
    words, ours = tokenizer("gemma"), encoding.jinja("gemma")
    assert encoding.render(words, [SYSTEM, *TURNS], ours) == encoding.render(words, [question, *TURNS[1:]], ours)
