"""Conversations as servers render them: by llama.cpp from the GGUF, by Go's text/template from a Modelfile's TEMPLATE.

Both are the real engines, small programs that `make llama` builds beside llama.cpp (ingot/chat/renderers).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ingot.chat.encoding import Message
from ingot.console.progress import StageError
from ingot.llama import llamacpp


def by_llama(gguf: Path, conversations: Iterable[Sequence[Message]]) -> list[dict[str, Any]]:
    """Each conversation with the assistant's turn opened, by the GGUF's own template and vocabulary, as llama.cpp's
    server does it: {"text", "ids"}, or {"error"} with what the template raised. A BOS that the vocabulary adds is in
    the ids only.
    """
    return _ask("llama-render", gguf, [{"messages": list(messages), "ask": True} for messages in conversations])


def tokenized(gguf: Path, texts: Iterable[str]) -> list[list[int]]:
    """Each text's token ids by the GGUF's vocabulary, with the BOS that it adds, markers read as control tokens."""
    return [line["ids"] for line in _ask("llama-render", gguf, [{"text": text} for text in texts])]


def ends(gguf: Path, token: str) -> bool:
    """Whether llama.cpp ends an answer at `token`: it is one token of the vocabulary, and an end (EOS, EOT, EOG)."""
    [line] = _ask("llama-render", gguf, [{"token": token}])
    return line["end"]


def by_go(template: str, conversations: Iterable[Sequence[Message]]) -> list[dict[str, str]]:
    """Each conversation as Ollama renders it by the TEMPLATE's text: {"text"}, or {"error"}."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".gotmpl") as file:
        file.write(template)
        file.flush()
        return _ask("go-render", Path(file.name), [{"messages": list(messages)} for messages in conversations])


def _ask(program: str, argument: Path, lines: list[dict]) -> list[dict[str, Any]]:
    asked = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    command = [str(llamacpp.BUILD.resolve() / "bin" / program), str(argument)]
    try:
        ran = subprocess.run(command, input=asked, capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError:
        raise StageError(f"{program} is not built: run `make llama`") from None
    # The output, not the status alone: llama.cpp has ended with 0 on errors before.
    answers = [json.loads(line) for line in ran.stdout.split("\n") if line]
    if ran.returncode or len(answers) != len(lines):
        raise StageError(f"{program} failed on {argument.name}: {ran.stderr.strip() or f'status {ran.returncode}'}")
    return answers
