"""Raw rows to conversations: the columns that `dataset.mix` maps, as turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ingot.chat.encoding import CARRIED, Message
from ingot.console.progress import StageError
from ingot.data.cleaning import Cleaner, Unfit, shows, trimmed
from ingot.data.meaning import MOST, PLAIN, Refused, has, turn_fault
from ingot.data.params import Part
from ingot.sources.json_text import parsed

# What data calls the roles; `columns.roles` adds to it.
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "tool": "tool", "observation": "tool", "ipython": "tool", "function": "tool", "tool_response": "tool",
    "function_response": "tool",
}  # fmt: skip
# Turns that are a call of a tool, which an answer makes: their text is OpenAI's `tool_calls`, or one of them.
CALLS = ("function_call", "tool_call", "function_calls", "tool_calls")
PARTS = ("text", "input_text", "output_text")  # types of a turn's parts that are text
# What a turn can hold besides its text, by the names that APIs use. Without it the model would be trained on an answer
# without what led to it, so that it is written into the answer, or the row is refused.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
BESIDES = ("tool_calls", "function_call", *THOUGHTS)
# What the families' own templates write as text: Qwen's, and DeepSeek's but for the calls, which have their own tokens.
WRITTEN = {"chatml": ("tool_calls", *THOUGHTS), "deepseek-r1": THOUGHTS}
STRANGE = 20  # unknown roles of a set that are counted each by its name
FOLLOWS = {
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


class Mapping:
    """Turns rows of one set into conversations.

    The system prompt is the row's own, else the set's (`part.system`), else `system`.
    """

    def __init__(self, part: Part, join: str, system: str, clean: Cleaner, template: str):
        self.columns, self.join, self.clean, self.template = part.columns, join, clean, template
        try:
            self.system = clean(part.system or system, "system")
        except Unfit as error:
            raise StageError(f"dataset: {error} that the params give: {(part.system or system)[:80]!r}") from None
        if not self.system:
            raise StageError(
                f"dataset: the system prompt {part.system or system!a} shows nothing: write one, or leave it out"
            )
        self.user, self.turns = (
            [value] if isinstance(value, str) else list(value or [])
            for value in (self.columns.user, self.columns.turns)
        )
        self.roles = ROLES | (self.columns.roles or {})
        self.strange: set[str] = set()
        self.known = {self.columns.role, self.columns.text, *BESIDES, *PLAIN}
        self.ignored = set(part.ignore or ())
        # Fields of turns that are not read: in how many rows each holds something, and the first of them.
        self.unread: dict[str, tuple[int, Any]] = {}

    def __call__(self, row: dict[str, Any]) -> list[Message]:
        """One row as messages. Raises Unfit for empty turns, a broken order, and what the cleaner refuses."""
        messages = [{"role": role, "content": self.clean(text, role)} for role, text in self._said(row)]
        own = self.clean(self._text(row, self.columns.system), "system") if self.columns.system else ""
        systems = [own] if own else []
        while messages and messages[0]["role"] == "system":  # a developer's after a system's, or none that shows
            if (text := messages.pop(0)["content"]) and text not in systems:
                systems.append(text)
        messages.insert(0, {"role": "system", "content": self.join.join(systems) or self.system})
        check(messages)
        return messages

    def _said(self, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Roles and their texts as the row has them."""
        if not self.turns:
            asked = [self._text(row, name) for name in self.user]
            yield "user", self.join.join(trimmed(text) for text in asked if shows(text))
            yield "assistant", self._text(row, self.columns.assistant)
            return
        for column, turn in self._turns(row):
            name = turn.get(self.columns.role)
            role = self.roles.get(name) if isinstance(name, str) else None
            if role is None and name in CALLS:
                calls = called_in(text_of(turn.get(self.columns.text)))
                turn = turn | {self.columns.text: None, "tool_calls": calls}
                role = "assistant"
            if role is None:
                raise self._unknown(name)
            if role not in CARRIED[self.template]:
                raise Unfit(f"role {role}, which the {self.template} template cannot render")
            for field in turn:
                if field not in self.known and has(turn[field]) and (fault := turn_fault(field, turn[field], role)):
                    raise Refused(fault[0], str(turn[field]), f"{column}[].{field}", fault[1])
            for name in BESIDES:
                if turn.get(name) and (role != "assistant" or name not in WRITTEN.get(self.template, ())):
                    reason = f"{name}, which the {self.template} template cannot render"
                    raise Refused(reason, str(turn[name]), f"{column}[].{name}")
            text = text_of(turn.get(self.columns.text))
            yield role, with_besides(turn, text) if role == "assistant" else text

    def _turns(self, row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Each turn with the name of its column, without ignored fields; counts those that are not read."""
        turns, fields = [], {}
        for column in self.turns:
            for turn in turns_of(row[column]):
                for name, value in turn.items():
                    if (name not in self.known or self.ignored) and has(value):
                        field = f"{column}[].{name}"
                        if name not in self.known or field in self.ignored:
                            fields.setdefault(field, value)
                if self.ignored:
                    turn = {name: value for name, value in turn.items() if f"{column}[].{name}" not in self.ignored}
                turns.append((column, turn))
        for field, value in fields.items():
            if field in self.unread or field in self.ignored or len(self.unread) < MOST:
                rows, first = self.unread.get(field, (0, value))
                self.unread[field] = rows + 1, first
        return turns

    def _unknown(self, role: Any) -> Unfit:
        """The reason names the role, for each is counted; but text that was mapped as a role is no list of reasons."""
        name = f"{str(role)[:40]!a}"
        if name not in self.strange and len(self.strange) == STRANGE:
            return Unfit(f"unknown role, another than {STRANGE} that are", str(role))
        self.strange.add(name)
        return Unfit(f"unknown role {name}", str(role))

    @staticmethod
    def _text(row: dict[str, Any], column: str) -> str:
        """The text in a column, empty where there is none. An integer is its digits, for it has no other spelling."""
        if (value := row[column]) is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise Unfit(f"column {column!r} holds no text", json.dumps(value, ensure_ascii=False, default=str))
        return value


def turns_of(value: Any) -> list[dict[str, Any]]:
    """A column's list of turns: as such, as JSON text, or as one list for each field (as `datasets` keeps some)."""
    if isinstance(value, str):
        try:
            value = parsed(value)
        except (ValueError, RecursionError) as error:
            twice = ": a key twice in one object" if "twice" in str(error) else ""
            raise Unfit(f"turns that are no JSON{twice}", value[:1000]) from None
    if isinstance(value, dict) and all(isinstance(items, list) for items in value.values()):
        if len({len(items) for items in value.values()}) > 1:
            raise Unfit("turns whose fields are lists of different lengths", str(value))
        value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise Unfit("turns that are no list of objects", str(value))
    return value


def bare(value: Any) -> Any:
    """A value out of Arrow without the keys that hold nothing: Arrow gives each object the keys of all others."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if item is not None}
    return [bare(item) for item in value] if isinstance(value, list) else value


def text_of(content: Any) -> str:
    """A turn's text: as such, or as a text part or a list of them: OpenAI's, Gemini's, {type, value}, strings."""
    parts = [content] if isinstance(content, dict) else content
    if isinstance(parts, list) and all(isinstance(part, dict | str) for part in parts):
        said = []
        for part in parts:
            if isinstance(part, str):
                said.append(part)
                continue
            if part.get("thought") is True:
                raise Unfit(
                    "a turn with a thought among its parts, which would be trained on as the answer", str(content)
                )
            kind = part.get("type", "text" if {*part} <= {"text", "thought"} else "")
            if kind not in PARTS:
                raise Unfit(
                    f"a turn that is no text{f': a part of type {str(kind)[:40]!a}' if kind else ''}", str(content)
                )
            text = part.get("value") if part.get("text") is None else part["text"]
            if isinstance(text, dict) and {*text} <= {"value", "annotations"}:  # OpenAI's Assistants
                text = text.get("value")
            said.append(text)
        if not all(isinstance(text, str | None) for text in said):
            raise Unfit("a turn that is no text", str(content))
        content = "\n".join(text or "" for text in said)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise Unfit("a turn that is no text", str(content))
    return content


def with_besides(turn: dict[str, Any], text: str) -> str:
    """An answer's text, thoughts before and tool calls after it, as Qwen's and DeepSeek's templates write them."""
    thoughts = [trimmed(text_of(turn[name])) for name in THOUGHTS if turn.get(name)]
    thoughts = [*dict.fromkeys(filter(shows, thoughts))]  # some APIs give the same under two names
    calls = [called(call) for call in calls_of(turn["tool_calls"])] if turn.get("tool_calls") else []
    if not thoughts and not calls:
        return text
    said = "\n".join([*([trimmed(text)] if shows(text) else []), *calls])
    if not said or not thoughts:
        return said
    if len(thoughts) > 1 or any(mark in text + thoughts[0] for mark in ("<think>", "</think>")):
        raise Unfit("thoughts in two places of a turn", thoughts[0])
    return f"<think>\n{thoughts[0]}\n</think>\n\n{said}"


def calls_of(calls: Any) -> list[dict[str, Any]]:
    """OpenAI's tool calls: each as such, or under `function`."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise Unfit("tool_calls that are no list of objects", str(calls))
    calls = [call.get("function") or call for call in calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise Unfit("a tool call without a name", str(calls))
    return calls


def called_in(text: str) -> Any:
    """The calls that are a turn's whole text."""
    try:
        calls = parsed(text)
    except (ValueError, RecursionError):
        raise Unfit("a tool call that is no JSON", text[:1000]) from None
    return calls if isinstance(calls, list) else [calls]


def called(call: dict[str, Any]) -> str:
    """A call as Qwen writes it. Its arguments are an object, or the JSON text of one; none are an empty one."""
    try:
        arguments = call.get("arguments") or {}
        arguments = parsed(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(arguments, dict):
            raise ValueError
        made = json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise Unfit("a tool call whose arguments are no JSON object", str(call)) from None
    return f"<tool_call>\n{made}\n</tool_call>"


def check(messages: list[Message]) -> None:
    """Raise Unfit unless no turn is empty, questions and answers take turns, and the last word is the assistant's."""
    for message in messages:
        if not message["content"]:
            raise Unfit(f"empty {message['role']} turn")
    roles = [message["role"] for message in messages]
    for side in ("user", "assistant"):
        if side not in roles:
            raise Unfit(f"no {side} turn")
    for before, role in pairwise(roles):
        if role not in FOLLOWS[before]:
            raise Unfit(f"{role} turn after {'another' if role == before else before} turn", " ".join(roles))
    if roles[-1] != "assistant":
        raise Unfit(f"ends with a {roles[-1]} turn", " ".join(roles))
