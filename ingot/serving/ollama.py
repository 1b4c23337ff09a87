"""`make ollama`: register the built model with an Ollama server, then have the server show what it makes of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ingot.console.bounds import read_json
from ingot.serving.ollama_server import OllamaError, Server, address, bar, chunks, console

BUILD = Path("build")
MODELFILE, PARITY = BUILD / "modelfile/Modelfile", BUILD / "modelfile/parity.json"
ANSWERS, TRAINED = BUILD / "evaluation/answers.json", BUILD / "dataset/train.jsonl"
# From this version on /api/create takes files by their digests.
OLDEST = (0, 5, 5)
# One part of a name (types/model/name.go): a model, its tag, or with dots forbidden its namespace.
PART, NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
NAME = re.compile(rf"(?:(?:[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}}/)?{NAMESPACE}/)?{PART}(?::{PART})?")
# What evaluation asks by. Ollama's own default punishes repetition, also that of the question's words.
GREEDY = {"temperature": 0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def serve(name: str, host: str | None, cli: bool) -> None:
    """Register the Modelfile's model as `name` at `host` (None: OLLAMA_HOST); compare renderings and one answer.

    `cli`: register it by the command `ollama` instead of by HTTP. Raises OllamaError.
    """
    if not NAME.fullmatch(name):
        raise OllamaError(
            f"model name {name!r}: Ollama takes [namespace/]name[:tag] of letters, digits, _ - and dots, each part "
            "beginning with a letter, digit or _, 80 characters at most"
        )
    served = _modelfile(name)
    server = Server(address(os.environ.get("OLLAMA_HOST", "") if host is None else host))
    version = server.version()
    console.print(f"Ollama {version} at {server.url}")
    if cli:
        _create_by_command(name, server.url)
    else:
        _create(server, version, name, served)
    faults = [*_rendered(server, version, name, served), *_answered(server, name, served)]
    console.print("\nto use it:" if not faults else "\nit is registered:")
    for line in served["commands"]:
        console.print(f"  {line}")
    if faults:
        raise OllamaError("\n".join(faults))


def _modelfile(name: str) -> dict[str, Any]:
    """What the Modelfile says, and the commands that serve it; read within the seal."""
    read = subprocess.run(
        [sys.executable, "-m", "ingot.serving.modelfile", str(MODELFILE), name], capture_output=True, text=True
    )
    if read.returncode:
        raise OllamaError(read.stderr.strip())
    return json.loads(read.stdout)


def _create(server: Server, version: str, name: str, served: dict[str, Any]) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if (0, 0, 0) < numbers < OLDEST:  # 0.0.0 is what somebody built
        raise OllamaError(
            f"Ollama {version} takes no files by digest: update it to {'.'.join(map(str, OLDEST))} or later"
        )
    file = Path(served["file"])
    digest = f"sha256:{_sha256(file)}"
    if server.has(digest):
        console.print(f"  the server has {file.name} already")
    else:
        server.upload(file, digest)
    request = {
        "model": name,
        "files": {file.name: digest},
        "template": served["template"],
        "system": served["system"],
        "parameters": served["parameters"] | {"stop": served["stops"]},
        "messages": served["messages"],
        "license": served["licenses"],
    }
    # What the Modelfile does not say is not sent.
    server.create({key: value for key, value in request.items() if value})


def _create_by_command(name: str, url: str) -> None:
    if not shutil.which("ollama"):
        raise OllamaError("the command `ollama` is not on the path: leave out --cli to register over HTTP")
    command = ["ollama", "create", name, "-f", str(MODELFILE)]
    if status := subprocess.run(command, env=os.environ | {"OLLAMA_HOST": url}).returncode:
        raise OllamaError(f"`{' '.join(command)}` ended with status {status}")


def _rendered(server: Server, version: str, name: str, served: dict[str, Any]) -> list[str]:
    """Have the server render the conversations that the build has proven; what differs, both texts side by side."""
    if not PARITY.is_file():
        console.print(f"renderings: not compared: {PARITY} is not there (dvc repro modelfile)")
        return []
    if served["messages"]:
        console.print("renderings: not compared: the Modelfile's MESSAGE lines would stand before each conversation")
        return []
    proven = read_json(PARITY, "run `dvc repro modelfile`")
    cases, bos = proven["conversations"], proven.get("bos", "")
    faults, compared = [], 0
    for case in cases:
        # Where a conversation has no system prompt the server puts the Modelfile's before it: `served` is that text.
        led = case["messages"][0]["role"] == "system" or not served["system"]
        expected = case["text"] if led else case.get("served")
        if expected is None:
            continue
        request = {"model": name} | {key: case[key] for key in ("messages", "tools", "think") if key in case}
        text = server.rendered(request)
        if text is None:
            console.print(f"renderings: not proven: Ollama {version} does not show what it renders (newer ones do)")
            return []
        compared += 1
        # Some versions show the BOS that others leave to the tokenizer.
        if text.removeprefix(bos) != expected.removeprefix(bos):
            faults.append(
                _differs(f"{case['name']!r} is rendered in another way than it was trained on", expected, text)
            )
    console.print(f"renderings: {compared - len(faults)} of {compared} conversations as trained", end="")
    console.print(f" ({len(cases) - compared} more are not comparable)" if compared < len(cases) else "")
    return faults


def _answered(server: Server, name: str, served: dict[str, Any]) -> list[str]:
    """Ask the first question that evaluation put to the file, greedily, and compare the answers."""
    messages, expected = _question()
    limit = {key: served["parameters"][key] for key in ("num_predict",) if key in served["parameters"]}
    said = server.answer({"model": name, "messages": messages, "options": GREEDY | limit})
    given = said["content"]
    console.print(f"asked:    {messages[-1]['content']}\nanswered: {given}")
    if expected is None:
        console.print(f"answers: not compared: {ANSWERS} and {TRAINED} are not both there")
        return []
    if said["thinking"]:  # taken out of the answer by the server
        expected = expected.rpartition("</think>")[2]
    if given.strip() == expected.strip():  # blanks around an answer belong to the template
        console.print("answers: as in evaluation")
        return []
    what = (
        f"{messages[-1]['content']!r} is answered in another way than evaluation had it "
        "(on other hardware a near tie can tip)"
    )
    return [_differs(what, expected, given)]


def _question() -> tuple[list[dict[str, str]], str | None]:
    """A conversation that ends with a question, and the file's own answer to it, if there is one."""
    if ANSWERS.is_file() and TRAINED.is_file():
        answers = read_json(ANSWERS, "run `dvc repro evaluation`", list)
        with TRAINED.open(encoding="utf-8", newline="\n") as lines:
            asked = [json.loads(line)["messages"] for line in itertools.islice(lines, len(answers))]
        for answer, messages in zip(answers, asked, strict=False):
            # Without a system prompt the server would put the Modelfile's there, and evaluation did not.
            if messages[0]["role"] == "system" and messages[-2]["content"] == answer["question"]:
                return messages[:-1], answer["given"]
    return [{"role": "user", "content": "What can you do?"}], None


def _differs(what: str, expected: str, given: str) -> str:
    one, other = repr(expected), repr(given)
    pairs = enumerate(zip(one, other, strict=False))
    at = next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
    return f"{what}:\n  the build   {one}\n  the server  {other}\n  part at     {' ' * at}^"


def _sha256(file: Path) -> str:
    found = hashlib.sha256()
    with bar(f"hashing {file.name}", file.stat().st_size) as advance:
        for chunk in chunks(file, advance):
            found.update(chunk)
    return found.hexdigest()
