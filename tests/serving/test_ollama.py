"""Registering with Ollama: what is sent, what is compared, and one clear line for each thing that can go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import stat
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ingot.console import bounds
from ingot.exact.files import write_json
from ingot.host.cli import app
from ingot.serving import modelfile, ollama, ollama_server
from tests.conftest import write_jsonl
from tests.ollamaserver import Ollama, chatml, serving

ROOT = Path(__file__).parents[2]
SYSTEM = 'Answer "briefly".'
STOPS = ["<|im_start|>", "<|im_end|>"]
GGUF = b"GGUF" + bytes(range(256)) * 5000
ASKED = [{"role": "system", "content": "You label news."}, {"role": "user", "content": "Oil rises."}]
TURNS = [{"role": "user", "content": "외환보유액은?"}]


@pytest.fixture
def build(tmp_path, monkeypatch) -> Path:
    """A folder with what `make ollama` reads of a build, and the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    (tmp_path / "params.yaml").write_text("name: Demo-1\n")
    for folder in ("gguf", "modelfile", "evaluation", "dataset"):
        (tmp_path / "build" / folder).mkdir(parents=True)
    (tmp_path / "build/gguf/Demo-1-Q4_K_M.gguf").write_bytes(GGUF)
    served = modelfile.Modelfile(
        "../gguf/Demo-1-Q4_K_M.gguf", "{{ .Messages }}", SYSTEM,
        {"temperature": 0.3, "num_ctx": 512, "num_predict": 9}, STOPS
    )  # fmt: skip
    (tmp_path / "build/modelfile/Modelfile").write_text(modelfile.dump(served))
    told = [{"role": "system", "content": SYSTEM}, *TURNS]
    cases = [
        {"name": "told", "messages": told, "text": chatml(told), "ids": [1]},
        {"name": "untold", "messages": TURNS, "text": chatml(TURNS), "served": chatml(told), "ids": [1]},
        {"name": "beyond", "messages": TURNS, "text": chatml(TURNS), "ids": [1]},
    ]
    write_json(tmp_path / "build/modelfile/parity.json", {"conversations": cases})
    answers = [{"question": "Hi", "given": "Ho"}, {"question": "Oil rises.", "given": "positive"}]
    write_json(tmp_path / "build/evaluation/answers.json", answers)
    rows = [[{"role": "user", "content": "Hi"}], ASKED]
    rows = [{"messages": [*row, {"role": "assistant", "content": "?"}]} for row in rows]
    write_jsonl(tmp_path / "build/dataset/train.jsonl", rows)
    return tmp_path


@pytest.fixture
def standin(build):
    """The stand-in, and a function that runs the verb against it: (status, output)."""
    made = Ollama(answer=lambda messages: "positive" if messages == ASKED else "?")
    with serving(made) as address:

        def run(*options: str) -> tuple[int, str]:
            result = CliRunner().invoke(app, ["ollama", "--host", address, *options])
            assert "Traceback" not in result.output
            return result.exit_code, result.output

        yield made, run


def test_the_model_is_registered_as_the_modelfile_says(standin):
    made, run = standin
    status, said = run()
    assert status == 0, said
    digest = f"sha256:{hashlib.sha256(GGUF).hexdigest()}"
    assert made.blobs == {digest: len(GGUF)}
    assert made.models["demo-1"] == {
        "model": "demo-1",
        "files": {"Demo-1-Q4_K_M.gguf": digest},
        "template": "{{ .Messages }}",
        "system": SYSTEM,
        "parameters": {"temperature": 0.3, "num_ctx": 512, "num_predict": 9, "stop": STOPS},
    }
    assert "parsing GGUF\n  writing manifest\n  success" in said
    assert "renderings: 2 of 2 conversations as trained (1 more are not comparable)" in said
    assert "answered: positive" in said and "answers: as in evaluation" in said
    assert "ollama run demo-1\n" in said and "llama-server -m build/gguf/Demo-1-Q4_K_M.gguf --jinja -c 512" in said
    path, question = made.asked[-1]
    assert path == "/api/chat" and question["messages"] == ASKED
    assert question["options"]["temperature"] == 0 and question["options"]["num_predict"] == 9


def test_a_blob_that_the_server_has_is_not_sent_again(standin):
    made, run = standin
    run()
    made.faults["blob"] = 500
    status, said = run("--model", "me/other:v2")
    assert status == 0 and "the server has Demo-1-Q4_K_M.gguf already" in said
    assert set(made.models) == {"demo-1", "me/other:v2"}


def test_a_slow_server_is_waited_for(standin):
    made, run = standin
    made.faults = {"blob": "slow", "create": "slow", "render": "slow", "chat": "slow"}
    assert run()[0] == 0


@pytest.mark.parametrize(
    ("place", "fault", "reason"),
    [
        ("version", 404, "asking for its version: 404: no such page"),
        ("version", "page", "asking for its version: the answer is no JSON: is another server there?"),
        ("head", 500, "asking for the file's blob: 500: no reason given"),
        ("blob", 500, "sending Demo-1-Q4_K_M.gguf: 500: no space left on device"),
        ("blob", "damaged", "sending Demo-1-Q4_K_M.gguf: 400: digest mismatch"),
        ("blob", "cut", "sending Demo-1-Q4_K_M.gguf: the connection was cut"),
        ("create", 500, "creating demo-1: 500: internal error"),
        ("create", "error", "creating demo-1: unsupported architecture"),
        ("create", "cut", "creating demo-1: the connection was cut"),
        ("create", "silent", "creating demo-1: the server stopped after 'parsing GGUF', without a success"),
        ("render", 500, "rendering a conversation: 500: llama runner process has terminated"),
        ("chat", "cut", "asking it a question: the connection was cut"),
    ],
)
def test_each_fault_is_one_clear_line(standin, place, fault, reason):
    made, run = standin
    made.faults[place] = fault
    status, said = run()
    last = said.splitlines()[-1]
    assert status == 1 and last.startswith("ingot: http://127.0.0.1:") and reason in last, said


@pytest.mark.parametrize(
    ("place", "fault", "reason"),
    [
        ("version", "endless", "asking for its version: the answer has more than 1 MB"),
        ("version", "trickle", "asking for its version: the answer does not end: 1 s have gone by"),
        ("chat", "endless", "asking it a question: the answer has more than 1 MB"),
        ("render", "trickle", "rendering a conversation: the answer does not end"),
        ("create", "endless", "creating demo-1: its statuses do not end"),
        ("create", "trickle", "creating demo-1: a line has more than 20 characters"),
        ("create", b"x" * 10_000_000, "creating demo-1: a line has more than 20 characters"),
    ],
)
def test_an_answer_without_end_is_not_read_to_its_end(standin, monkeypatch, place, fault, reason):
    made, run = standin
    smaller = {"ANSWER_BYTES": 10**6, "ANSWER_SECONDS": 1, "VERSION_SECONDS": 1, "STATUS_CHARACTERS": 20}
    for name, value in smaller.items():
        monkeypatch.setattr(bounds, name, value)
    made.faults[place] = fault
    began = time.monotonic()
    status, said = run()
    assert status == 1 and reason in said and time.monotonic() - began < 20, said


DEEP = b"[" * 100_000
ODD = ["null", "[]", "7", '"x"', "{}", '{"error": [1, {"a": null}]}', '{"version": ["x"]}', '{"status": {"a": 1}}']
ODD += ['{"version": "[/bold] [link=x]\\u001b[31m"}', '{"version": "0.30", "message": {"content": ["x"]}}']
ODD += [
    '{"message": "x"}',
    '{"message": {"content": 7, "thinking": {}}}',
    '{"_debug_info": [1]}',
    '{"_debug_info": "x"}',
]
ODD += ['{"_debug_info": {"rendered_template": {"a": 1}}}', '{"message": {"content": "\\u001b]0;x\\u0007[/red]"}}']
ODD += ['{"message": {"content": "\\ud800"}}', '{"version": 1e999}', "\xff\xfe", "{" * 50]


@pytest.mark.parametrize("place", ["version", "create", "render", "chat"])
def test_answers_of_any_shape_are_one_message_or_read(place):
    """Each odd answer, alone and cut at places that a seed draws: 150 for each place, 600 in all."""
    drawn, made = random.Random(place), Ollama()
    cases = [text.encode("latin-1") for text in ODD] + [DEEP, b"", b"\x1b[2J"]
    while len(cases) < 150:
        text = drawn.choice(ODD).encode("latin-1")
        cases.append(text[: drawn.randrange(len(text) + 1)] + bytes(drawn.choices(range(256), k=drawn.randrange(3))))
    asked = {"model": "demo-1", "messages": TURNS, "files": {}}
    made.models["demo-1"] = {}
    with serving(made) as address:
        server = ollama_server.Server(address)
        ask = {"version": server.version, "create": server.create, "render": server.rendered, "chat": server.answer}[
            place
        ]
        for case in cases:
            made.faults[place] = case
            try:
                given = ask() if place == "version" else ask(asked)
            except ollama_server.OllamaError:
                continue
            texts = given.values() if isinstance(given, dict) else [given]
            assert all(isinstance(text, str | None) for text in texts), case


@pytest.mark.parametrize(
    ("place", "answer"),
    [
        ("version", '{"version": "[/bold] [link=x]\\u001b[31m"}'),
        ("version", '{"error": "\\u001b]0;owned\\u0007 [/red] \\u202e"}'),
        ("create", '{"status": "\\u001b[2J[/red]"}\n{"status": "success"}'),
        ("render", '{"_debug_info": {"rendered_template": "\\u001b[2J\\u009b31m"}}'),
        ("chat", '{"message": {"content": "\\u001b]0;x\\u0007[/red]\\ud800"}}'),
    ],
)
def test_nothing_that_a_server_says_is_obeyed_by_the_terminal(standin, place, answer):
    made, run = standin
    made.faults[place] = answer.encode()
    said = run()[1]
    assert not set(said) & {"\x1b", "\x07", "\x9b", "\u202e"}, said
    assert "\\x1b" in said or "\\\\x1b" in said or "\\x9b" in said, said


def test_what_a_cut_upload_left_out_is_sent_the_next_time(standin):
    made, run = standin
    made.faults["blob"] = "cut"
    assert run()[0] == 1 and not made.blobs
    assert run()[0] == 0 and made.blobs


def test_another_rendering_is_shown_beside_ours_and_fails(standin):
    made, run = standin
    made.faults["render"] = "wrong"
    status, said = run()
    assert status == 1 and "renderings: 1 of 2 conversations" in said
    ours, theirs, mark = said.splitlines()[-3:]
    assert "the build   '<|im_start|>system" in ours and "the server  '<|im_start|>system" in theirs
    at = mark.index("^")
    assert (ours[at], theirs[at]) == ("i", "u") and ours[:at].endswith("<|") and theirs[at:].startswith("user|>")
    assert "'told' is rendered in another way than it was trained on" in said


def test_a_bos_that_the_server_shows_is_no_difference(standin, build):
    made, run = standin
    record = build / "build/modelfile/parity.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"bos": "<s>"}))
    made.render = lambda messages: "<s>" + chatml(messages)
    assert run()[0] == 0
    made.render = lambda messages: "<s><s>" + chatml(messages)
    assert run()[0] == 1


def test_another_answer_is_shown_beside_ours_and_fails(standin):
    made, run = standin
    made.answer = lambda messages: "negative"
    status, said = run()
    assert status == 1 and "the build   'positive'" in said and "the server  'negative'" in said


def test_an_old_server_that_shows_no_rendering_proves_nothing_and_says_so(standin):
    made, run = standin
    made.version, made.faults["render"] = "0.9.6", "old"
    status, said = run()
    assert status == 0 and "renderings: not proven: Ollama 0.9.6 does not show what it renders" in said
    assert made.asked[1][1]["options"] == {"num_predict": 1}, "or it would have written a whole answer"


def test_a_server_too_old_for_digests_is_told_which_one_is_not(standin):
    made, run = standin
    made.version = "0.5.4"
    status, said = run()
    assert status == 1 and "Ollama 0.5.4 takes no files by digest: update it to 0.5.5 or later" in said
    assert not made.blobs


def test_what_the_build_has_no_record_of_is_not_compared(standin, build):
    _, run = standin
    (build / "build/modelfile/parity.json").unlink()
    (build / "build/evaluation/answers.json").unlink()
    status, said = run()
    assert status == 0 and "renderings: not compared: build/modelfile/parity.json is not there" in said
    assert "asked:    What can you do?" in said and "answers: not compared" in said


def test_no_server_no_modelfile_no_name(build):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    run = CliRunner().invoke
    result = run(app, ["ollama", "--host", address])
    assert result.exit_code == 1 and f"no Ollama answers at http://{address}" in result.output
    assert "start it with `ollama serve`" in result.output and len(result.output.splitlines()) == 1
    result = run(app, ["ollama", "--model", "a b"])
    assert result.exit_code == 1 and "model name 'a b'" in result.output
    (build / "build/gguf/Demo-1-Q4_K_M.gguf").unlink()
    result = run(app, ["ollama"])
    assert result.exit_code == 1 and "Ollama would take it for a model to pull" in result.output
    (build / "build/modelfile/Modelfile").unlink()
    result = run(app, ["ollama"])
    assert result.exit_code == 1 and "run `make repro`" in result.output


def test_the_command_is_used_where_it_is_asked_for(standin, build, monkeypatch):
    made, run = standin
    monkeypatch.setenv("PATH", str(build))
    status, said = run("--cli")
    assert status == 1 and "the command `ollama` is not on the path" in said
    command = build / "ollama"
    command.write_text('#!/bin/sh\necho "$OLLAMA_HOST $@" > told\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    made.models["demo-1"] = {"system": SYSTEM}  # as the command would have it
    status, said = run("--cli")
    assert status == 0 and "as in evaluation" in said and not made.blobs
    told = (build / "told").read_text().split()
    assert told[0].startswith("http://127.0.0.1:") and told[1:] == [
        "create",
        "demo-1",
        "-f",
        "build/modelfile/Modelfile",
    ]
    command.write_text("#!/bin/sh\nexit 3\n")
    status, said = run("--cli")
    assert status == 1 and "ended with status 3" in said


def test_a_large_file_is_never_whole_in_memory(standin, build):
    """A sparse file larger than what the process may map."""
    made, run = standin
    with (build / "build/gguf/Demo-1-Q4_K_M.gguf").open("r+b") as file:
        file.truncate(1 << 28)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = []
    advance = ollama_server.chunks

    def watched(*arguments):
        for chunk in advance(*arguments):
            peak.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            yield chunk

    ollama_server.chunks = watched
    try:
        assert run()[0] == 0
    finally:
        ollama_server.chunks = advance
    assert list(made.blobs.values()) == [1 << 28] and max(peak) - before < 1 << 27


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:8080", "http://gpu-box:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box", "https://gpu-box:443"),
        ("https://gpu-box:8443/", "https://gpu-box:8443"),
        ("https://proxy.example/ollama", "https://proxy.example:443/ollama"),
        ("ollama.com", "https://ollama.com:443"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
        (" 'gpu-box' ", "http://gpu-box:11434"),
    ],
)
def test_the_address_is_read_as_ollama_reads_it(said, url):
    assert ollama_server.address(said) == url


@pytest.mark.parametrize(
    ("said", "reason"),
    [("ftp://box", "ftp:// is not spoken"), ("box:x", "'x' is no port"), ("box:70000", "is no port")],
)
def test_an_address_that_leads_nowhere_is_refused(said, reason):
    with pytest.raises(ollama_server.OllamaError, match=reason):
        ollama_server.address(said)


def test_the_servers_path_is_kept(build):
    """Behind a proxy that serves Ollama below a path."""
    assert str(ollama_server.Server("https://box/ollama").client.build_request("GET", "/api/version").url).endswith(
        "box/ollama/api/version"
    )


@pytest.mark.parametrize("name", ["demo", "demo:q4", "me/demo", "hub.example:5000/me/demo:v1.2", "_x", "1b"])
def test_names_that_ollama_takes(name):
    assert ollama.NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-demo", "a b", "me.too/demo", "a/b/c/d", "demo:", "x" * 81, "démo", "demo:a:b"])
def test_names_that_it_does_not(name):
    assert not ollama.NAME.fullmatch(name)


def test_the_record_of_evaluation_is_what_is_compared(build):
    messages, expected = ollama._question()
    assert (messages, expected) == (ASKED, "positive")
    assert json.loads(Path("build/evaluation/answers.json").read_text())[0]["given"] == "Ho", "has no system prompt"
