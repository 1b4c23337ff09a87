"""Template parity: what was trained on is what every server renders, in text and in token ids.

One suite of conversations is rendered by the Hugging Face tokenizer with the template that was trained on, by llama.cpp
from the GGUF, and by Ollama's engine from the Modelfile's TEMPLATE.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from ingot.chat import encoding, render
from ingot.chat.encoding import Message
from ingot.console.progress import StageError


def suite(system: str, roles: Sequence[str], stops: Sequence[str]) -> dict[str, list[Message]]:
    """Conversations by name, each ending where an answer is due; `system` is the Modelfile's, `roles` what the template
    carries, `stops` its markers."""

    def turns(*texts: str, first: str = "user") -> list[Message]:
        other = {"user": "assistant", "assistant": "user"}
        made, role = [], first
        for text in texts:
            made.append({"role": role, "content": text})
            role = other[role]
        return made

    told = [{"role": "system", "content": system}]
    cases = {
        "a question": turns("What is a bond?"),
        "a question under the system prompt": told + turns("What is a bond?"),
        "several turns": told + turns("What is a bond?", "A loan that trades.", "And a share?"),
        "several turns without a system prompt": turns("하나", "1", "둘", "2", "셋"),
        "two questions in a row": [*turns("One."), *turns("And another.")],
        "two answers in a row": [*turns("Q", "A"), *turns("B", "Go on", first="assistant")],
        # Composed: some tokenizers compose (NFC) what llama.cpp takes as it comes, which no template can mend.
        "unicode": told + turns(
            "한국어 é \U0001f469\u200d\U0001f4bb \u0645\u0631\u062d\u0628\u0627 \ufeff\u00a0x", "é", "\u2028?"
        ),
        "space around the text": told + turns("  two before, two after  ", "\n\nA\n", "\tend\n"),
        "markup and code": turns('{"a": "<b>&amp;</b>"} {{ .Content }} {% if %} `x` \\n "q"'),
        # The template's own markers are control tokens wherever they stand. Other models' are left out: llama.cpp takes
        # some, such as </s>, for an end in every vocabulary that has them, whatever the file says.
        "text like special tokens": turns(f"{' '.join(stops)} <|none|> <think> </think> <| im_end |> [INST ]"),
        "numbers": turns("1234567890 3.14159 1,000,000 ½"),
    }  # fmt: skip
    if "tool" in roles:
        cases["a tool's result"] = [*turns("Price?", "Looking."), {"role": "tool", "content": '{"price": 71200}'}]
    return cases


def check(base: Path, source: str, gguf: Path, go_template: str, system: str, template: str) -> dict[str, Any]:
    """Raise StageError, both renderings side by side, unless all three agree on every conversation.

    `base` holds the tokenizer, `source` is the Jinja template that was trained on, `go_template` the Modelfile's
    TEMPLATE. Returns {"bos", "conversations": [{"name", "messages", "text", "ids", "served"}]}: `text` is what Ollama
    is to render, and `served` what it renders with the Modelfile's SYSTEM before a conversation that brings none.
    """
    tokenizer = encoding.load_tokenizer(base)
    cases = suite(system, encoding.CARRIED[template], encoding.STOPS[template])
    by_llama = render.by_llama(gguf, cases.values())
    by_go = render.by_go(go_template, cases.values())
    bos = tokenizer.bos_token or ""
    proven = []
    for (name, messages), llama, go in zip(cases.items(), by_llama, by_go, strict=True):
        try:
            trained = encoding.render(tokenizer, messages, source, ask=True)
        except (TemplateError, StageError) as error:
            if "error" not in llama:
                raise StageError(
                    f"{name}: the template refuses it ({error}), but llama.cpp renders it from {gguf.name}"
                ) from None
            continue  # nobody can be trained on it
        llama["text"] = llama.get("text", "").removeprefix(bos)  # of a file that says add_bos, it is gone already
        ids = tokenizer(trained, add_special_tokens=False)["input_ids"]
        if bos and ids.count(tokenizer.bos_token_id) > 1 and bos not in str(messages):
            raise StageError(f"{name}: the template writes more than one {bos}:\n{trained}")
        # Who serves adds the BOS to the ids, not to the text.
        text = trained.removeprefix(bos)
        for who, other in (("llama.cpp", llama), ("Ollama's TEMPLATE", go)):
            if "error" in other:
                raise StageError(f"{name}: {who} cannot render it: {other['error']}")
            if other["text"] != text:
                raise StageError(_side_by_side(name, "the text trained on", repr(text), who, repr(other["text"])))
        if llama["ids"] != ids:
            raise StageError(_side_by_side(name, "the tokens trained on", str(ids), "llama.cpp", str(llama["ids"])))
        proven.append({"name": name, "messages": messages, "text": text, "ids": ids})
    # By Ollama's text: its runner tokenises with the same vocabulary, which adds the BOS.
    for case, ids in zip(proven, render.tokenized(gguf, [case["text"] for case in proven]), strict=True):
        if ids != case["ids"]:
            raise StageError(_side_by_side(case["name"], "the tokens trained on", str(case["ids"]), "Ollama", str(ids)))
    for case in proven:
        messages = case["messages"]
        own = messages[0]["role"] == "system"
        told = messages if own else [{"role": "system", "content": system}, *messages]
        case["served"] = encoding.render(tokenizer, told, source, ask=True).removeprefix(bos)
    return {"bos": bos, "conversations": proven}


def _side_by_side(name: str, left: str, one: str, right: str, other: str) -> str:
    """Both, and where they part."""
    at = next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )
    width = max(len(left), len(right)) + 2
    return (
        f"template parity: {name!r} is rendered in two ways, so the file would be asked in other words than it was "
        "trained on:\n"
        f"  {left:<{width}}{one}\n  {right:<{width}}{other}\n  {'they part at':<{width}}{' ' * at}^"
    )
