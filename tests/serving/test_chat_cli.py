"""`make chat`: whose word is whose, what the Modelfile says, and how it ends."""

from __future__ import annotations

import inspect
import io
from types import SimpleNamespace

import pytest

from ingot.console.progress import StageError
from ingot.llama import llamacpp
from ingot.serving import chat_cli, modelfile
from ingot.serving.modelfile import Modelfile

SERVED = Modelfile(
    "m", "t", "Be brief.", {"num_ctx": 60, "num_predict": 12, "temperature": 0.5}, ["<|im_end|>", "USER:"]
)
END = 0


class Echo:
    """In llama.cpp's place: a token is a byte, and the answer is what the last turn asks for."""

    def __init__(self):
        self.asked, self.options = [], {}

    def render(self, messages):
        self.asked.append(list(messages))
        return SimpleNamespace(prompt="".join(message["content"] for message in messages))

    def tokenize(self, text, add_bos, special):
        return list(text)

    def generate(self, prompt, **options):
        self.options = options
        last = self.asked[-1][-1]["content"]
        if last == "^C":
            yield from b"half"
            raise KeyboardInterrupt
        yield from {
            "count": f"{len(self.asked[-1])} 개!", "stop": "yes USER: I", "control": "a<|im_end|>b", "near": "USE<|im_"
        }.get(last, last * 9).encode()  # fmt: skip
        yield END

    def detokenize(self, tokens, special):
        assert special
        return bytes(tokens)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def talked(monkeypatch, capsys, lines: str, typed: bool = True) -> tuple[Echo, str, str]:
    model = Echo()
    monkeypatch.setattr("sys.stdin", Terminal(lines) if typed else io.StringIO(lines))
    talker = chat_cli.Talker(model, SERVED, model.render, {END})
    chat_cli.converse(talker, [{"role": "system", "content": SERVED.system}], ">>> " if typed else "")
    said = capsys.readouterr()
    return model, said.out, said.err


def test_a_piped_conversation_is_answers_alone(monkeypatch, capsys):
    model, out, err = talked(monkeypatch, capsys, "count\n\n  \ncount\n/bye\nthree\n", typed=False)
    assert (out, err) == ("2 개!\n4 개!\n", "")
    assert [message["content"] for message in model.asked[1]] == ["Be brief.", "count", "2 개!", "count"]
    assert model.options == {"temp": 0.5}


@pytest.mark.parametrize(("asked", "answer"), [("stop", "yes "), ("control", "a"), ("near", "USE<|im_")])
def test_a_stop_ends_the_answer_and_its_beginning_alone_does_not(monkeypatch, capsys, asked, answer):
    assert talked(monkeypatch, capsys, asked, typed=False)[1] == f"{answer}\n"


def test_what_cannot_become_a_stop_is_shown_at_once():
    model = Echo()
    pieces = chat_cli.Talker(model, SERVED, model.render, {END})._pieces(iter(b"ab<|no" + bytes([END])))
    assert list(pieces) == ["a", "b", "", "", "<|n", "o", ""]


def test_clear_forgets_and_help_tells(monkeypatch, capsys):
    model, out, err = talked(monkeypatch, capsys, "count\n/?\n/clear\ncount\n")
    assert [len(messages) for messages in model.asked] == [2, 2]
    assert "/bye ends, /clear forgets" in err and out.count(">>> ") == 5


def test_a_question_that_does_not_fit_is_taken_back(monkeypatch, capsys):
    model, _, err = talked(monkeypatch, capsys, "count\n" + "x" * 60 + "\ncount\n")
    assert "leave no room for an answer within num_ctx (60); the question is taken back" in err
    assert [message["content"] for message in model.asked[2]] == ["Be brief.", "count", "2 개!", "count"]
    with pytest.raises(StageError, match=r"raise modelfile\.num_ctx"):
        talked(monkeypatch, capsys, "x" * 60, typed=False)


def test_control_c_stops_the_answer_and_keeps_what_was_said(monkeypatch, capsys):
    model, out, _ = talked(monkeypatch, capsys, "^C\ncount\n")
    assert "half\n" in out and model.asked[1][2] == {"role": "assistant", "content": "half"}
    with pytest.raises(KeyboardInterrupt):
        talked(monkeypatch, capsys, "^C\n", typed=False)


def test_an_answer_that_was_cut_off_says_so(monkeypatch, capsys):
    _, out, err = talked(monkeypatch, capsys, "abc", typed=False)
    assert out == "abcabcabcabc\n" and "(cut off: num_predict is reached" in err


def test_a_modelfile_that_cannot_be_followed(tmp_path, monkeypatch, capsys):
    (tmp_path / "Modelfile").write_text("FROM x.gguf\nPARAMETER repeat_last_n 9\n")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(chat_cli, "MODELFILE", tmp_path / "Modelfile")
    with pytest.raises(StageError, match="no PARAMETER num_ctx: Ollama would choose one"):
        chat_cli.main("x")
    assert (
        "not known to llama-cpp-python, so only Ollama will follow it: PARAMETER repeat_last_n"
        in capsys.readouterr().err
    )


def test_every_parameter_that_chat_follows_is_one_of_llama_cpp_pythons(in_repo):
    known = inspect.signature(llamacpp.library().Llama.generate).parameters
    assert set(chat_cli.SAMPLING.values()) <= set(known) and set(chat_cli.FOLLOWED) <= set(modelfile.PARAMETERS)
