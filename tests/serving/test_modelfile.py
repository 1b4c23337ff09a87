"""The Modelfile: what is written reads back, by Ollama's own grammar too, and what it cannot hold is refused."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.chat import encoding
from ingot.console.progress import StageError
from ingot.serving import modelfile

ROOT = Path(__file__).parents[2]
SERVED = modelfile.Modelfile(
    model="../gguf/demo-Q4_K_M.gguf",
    template=encoding.go_template("chatml"),
    system='당신은 "애널리스트"입니다.\nAnswer {{ briefly }}.',
    parameters={"temperature": 0.3, "num_predict": 128, "num_ctx": 512},
    stops=["<|im_start|>", "<|im_end|>"],
)
PERSONS = """# my model
from ./model.gguf
  system You answer "briefly".

TEMPLATE "{{ .System }}
{{ .Prompt }}"
Parameter temperature .5
parameter stop <|im_end|>
PARAMETER\tstop "\tUser: "
PARAMETER use_mmap false
PARAMETER num_ctx 1024
PARAMETER num_ctx 2048
# MESSAGE user not this one
MESSAGE user Hi: there
message assistant \"\"\"Ho
ho\"\"\"
LICENSE MIT
LICENSE \"\"\"
Apache 2
\"\"\""""


def ollama_reads(text: str) -> list[tuple[str, str]]:
    """Commands and arguments, character by character in ollama's states (parser/parser.go): an independent reader."""
    commands, state, name, role, buffer = [], "nil", "", "", ""

    def unquote(value: str) -> tuple[str, bool]:
        if value[:3] == '"""':
            return (value[3:-3], True) if len(value) >= 6 and value[-3:] == '"""' else ("", False)
        if value[:1] == '"':
            return (value[1:-1], True) if len(value) >= 2 and value[-1] == '"' else ("", False)
        return value, True

    for letter in text:
        blank, newline = letter in " \t", letter in "\r\n"
        kept = letter
        if state in ("nil", "comment"):
            after = "comment" if (state == "comment" and not newline) or letter == "#" else "nil"
            if state == "nil" and not (blank or newline or letter == "#"):
                after = "name"
            kept = letter if after == "name" else ""
        elif state == "value":
            after = "nil" if blank or newline else "value"
        else:
            allowed = re.fullmatch(r"[A-Za-z0-9_]" if state == "parameter" else "[A-Za-z]", letter)
            assert allowed or blank, (state, letter)
            after, kept = (state, letter) if allowed else ("value", "")
        if after != state:
            if state == "name":
                name = buffer.lower()
                assert name in ("from", "license", "template", "system", "adapter", "parameter", "message"), name
                after = name if name in ("parameter", "message") else after
            elif state == "parameter":
                name = buffer
            elif state == "message":
                assert buffer in ("system", "user", "assistant"), buffer
                role = buffer
            elif state == "value":
                value, whole = unquote(buffer.strip())
                if not whole or blank:
                    buffer += letter
                    continue
                commands.append((name, f"{role}: {value}" if role else value))
                role = ""
            buffer, state = "", after
        buffer += kept if kept.isprintable() else ""
    if state == "value":
        value, whole = unquote(buffer.strip())
        assert whole
        commands.append((name, f"{role}: {value}" if role else value))
    else:
        assert state in ("nil", "comment"), state
    return commands


def told(served: modelfile.Modelfile) -> list[tuple[str, str]]:
    """The same as `load` has it."""
    found = [("from", served.model), ("template", served.template), ("system", served.system)]
    found += [(key, json.dumps(value)) for key, value in served.parameters.items()]
    found += [("stop", stop) for stop in served.stops]
    found += [("message", f"{turn['role']}: {turn['content']}") for turn in served.messages]
    return [*found, *(("license", text) for text in served.licenses)]


@pytest.mark.parametrize(
    "served",
    [
        SERVED,
        modelfile.Modelfile("a b.gguf", "", "", {}, []),
        modelfile.Modelfile('"odd".gguf', " x ", '"quoted"', {"use_mmap": True, "seed": -1}, ["\n", '"', " ", "a\nb"]),
        modelfile.Modelfile(
            " x.gguf", "t", "s\n", {"min_p": 1e-05}, ['""x', "#"],
            [{"role": "user", "content": " a: b "}], ["MIT", "\n"],
        ),
    ],
)  # fmt: skip
def test_what_is_written_reads_back_here_and_in_ollama(served):
    text = modelfile.dump(served)
    assert modelfile.load(text) == served
    assert sorted(ollama_reads(text)) == sorted(pair for pair in told(served) if pair[1])


def test_a_persons_file_is_read_as_ollama_reads_it():
    served = modelfile.load(PERSONS)
    assert served == modelfile.Modelfile(
        "./model.gguf", "{{ .System }}\n{{ .Prompt }}", 'You answer "briefly".',
        {"temperature": 0.5, "use_mmap": False, "num_ctx": 2048}, ["<|im_end|>", "\tUser: "],
        [{"role": "user", "content": "Hi: there"}, {"role": "assistant", "content": "Ho\nho"}], ["MIT", "\nApache 2\n"],
    )  # fmt: skip
    theirs = [pair for pair in ollama_reads(PERSONS) if pair != ("num_ctx", "1024")]  # the last one holds
    ours = [("temperature", ".5") if key == "temperature" else (key, value) for key, value in told(served)]
    assert sorted(theirs) == sorted(ours)


def test_every_part_is_there():
    text = modelfile.dump(SERVED)
    assert text.startswith("FROM ../gguf/demo-Q4_K_M.gguf\n")
    assert 'PARAMETER stop "<|im_start|>"\nPARAMETER stop "<|im_end|>"\n' in text
    assert "PARAMETER num_ctx 512\n" in text
    assert '<|im_start|>assistant\n"""' in text, "the template's last newline is part of it"


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        ('say """hi"""', 'holds """'),
        ("full\u3000width", r"IDEOGRAPHIC SPACE \(U\+3000\)"),
        ("no\u00a0break", r"NO-BREAK SPACE \(U\+00A0\)"),
        ("family \U0001f468\u200d\U0001f469", r"ZERO WIDTH JOINER \(U\+200D\)"),
        ("nul \x00", r"a control character \(U\+0000\)"),
    ],
)
def test_text_that_ollama_would_change_is_refused(system, reason):
    with pytest.raises(StageError, match=reason):
        modelfile.dump(modelfile.Modelfile("a.gguf", "t", system, {}, []))


def test_a_value_that_would_not_read_back_is_refused():
    for value in (float("nan"), float("inf")):
        with pytest.raises(StageError, match=r"PARAMETER temperature .*must be a number"):
            modelfile.dump(modelfile.Modelfile("a.gguf", "t", "s", {"temperature": value}, []))
    with pytest.raises(StageError, match=r"PARAMETER num_ctx 1_000: must be a whole number"):
        modelfile.load("FROM a.gguf\nPARAMETER num_ctx 1_000\n")
    with pytest.raises(StageError, match="must be a whole number"):
        modelfile.dump(modelfile.Modelfile("a.gguf", "t", "s", {"num_ctx": 1.5}, []))
    with pytest.raises(StageError, match='holds """'):
        modelfile.dump(modelfile.Modelfile("a.gguf", "t", "s", {}, ['"""']))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SYSTEM x", "no FROM"),
        ("FROM", "line 1: 'FROM': nothing follows it"),
        ("FROM a\n\nFORM b", "line 3: 'FORM': no command of a Modelfile"),
        ("FROM a\nFROM b", "line 2: a second FROM"),
        ("FROM a\nADAPTER x.gguf", "line 2: ADAPTER is not supported: newer versions of Ollama take no adapters"),
        ("FROM a\nRENDERER qwen3", "line 2: RENDERER is not supported"),
        ("FROM a\nMESSAGE tool x", "line 2: MESSAGE tool: must be one of system, user, assistant"),
        ("FROM a\nPARAMETER  temperature 1", "line 2: PARAMETER: write `PARAMETER NAME VALUE`, one blank between"),
        (
            "FROM a\nPARAMETER temprature 1",
            "line 2: Ollama knows no parameter 'temprature'; did you mean 'temperature'",
        ),
        ("FROM a\nPARAMETER num_ctx 4k", "line 2: PARAMETER num_ctx 4k: must be a whole number"),
        ("FROM a\nPARAMETER use_mmap maybe", "must be true or false"),
        ('FROM a\nSYSTEM """x\ny""', "line 2: SYSTEM: its quotes are never closed"),
        ('FROM a\nSYSTEM "x" # why', "line 2: SYSTEM: its quotes are never closed"),
        ("FROM a\nSYSTEM x\u3000y", r"line 2: SYSTEM: the text holds IDEOGRAPHIC SPACE"),
        ("FROM a\r\nSYSTEM x", "its lines end as on Windows"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_line(text, reason):
    with pytest.raises(StageError) as error:
        modelfile.load(text)
    assert reason in str(error.value)


def test_from_is_relative_to_the_modelfile_and_must_be_there(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/Modelfile").write_text("FROM ../x.gguf\n")
    with pytest.raises(
        StageError, match=r"FROM \.\./x\.gguf: no such file, so Ollama would take it for a model to pull"
    ):
        modelfile.read(tmp_path / "m/Modelfile")
    (tmp_path / "x.gguf").touch()
    served, file = modelfile.read(tmp_path / "m/Modelfile")
    assert served.model == "../x.gguf" and file == tmp_path / "x.gguf"
    said = subprocess.run(
        [sys.executable, "-m", "ingot.serving.modelfile", str(tmp_path / "m/Modelfile"), "demo"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(said.stdout)["file"] == str(file)


def test_the_commands_are_those_of_llama_cpp_and_survive_a_shell():
    parameters = {key: kind(1) for key, kind in modelfile.PARAMETERS.items()}
    served = modelfile.Modelfile("m", "t", "it's\n\\n", parameters, ["<|im_end|>"])
    ollama, server, cli = (shlex.split(line) for line in modelfile.run_with("demo", "m.gguf", served))
    assert ollama == ["ollama", "run", "demo"]
    assert server[:4] == ["llama-server", "-m", "m.gguf", "--jinja"] and "-sys" not in server
    assert cli[cli.index("-sys") + 1] == "it's\n\\n" and cli[cli.index("-r") + 1] == "<|im_end|>"
    known = set(re.findall(r'"(-[a-z-]+)"', (ROOT / "llama.cpp/common/arg.cpp").read_text(encoding="utf-8")))
    used = {word for line in (server, cli) for word in line if re.fullmatch(r"--?[a-z-]+", word)}
    assert used <= known and {"-c", "-n", "--temp", "--repeat-penalty", "--repeat-last-n"} <= used
