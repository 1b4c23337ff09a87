"""The Modelfile: what is written reads back, and what its grammar cannot hold is refused."""

from __future__ import annotations

import pytest

from ingot.inside import chat, modelfile
from ingot.inside.progress import StageError

SERVED = modelfile.Modelfile(
    model="../gguf/demo-Q4_K_M.gguf",
    template=chat.go_template("chatml"),
    system='당신은 "애널리스트"입니다.\nAnswer {{ briefly }}.',
    parameters={"temperature": 0.3, "num_predict": 128, "num_ctx": 512},
    stops=["<|im_start|>", "<|im_end|>"],
)


def test_what_is_written_reads_back():
    assert modelfile.load(modelfile.dump(SERVED)) == SERVED


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
