"""The final file is proven: other templates, lost stops, wrong tokenizers and unfit weights are caught, by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.chat import encoding, parity, render
from ingot.console.progress import StageError
from ingot.exact.files import sha256
from ingot.llama import gguf_check, llamacpp
from ingot.model import weights
from stages import modelfile

ROOT = Path(__file__).parents[2]
SYSTEM = "You are a quantitative analyst. 짧게 답하세요."


@pytest.fixture(scope="module")
def served(base, tmp_path_factory) -> Path:
    """A 16-bit GGUF of the tiny base, with the template that is trained on."""
    out = tmp_path_factory.mktemp("served") / "demo-F16.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        llamacpp.convert(base, out, "demo", "f16")
    return out


def proof(base: Path, served: Path, source: str | None = None, template: str | None = None) -> list[dict]:
    return parity.check(
        base, source or encoding.jinja("chatml"), served, template or encoding.go_template("chatml"), SYSTEM, "chatml"
    )["conversations"]


def test_three_engines_render_every_conversation_alike(base, served, in_repo):
    proven = proof(base, served)
    assert [case["name"] for case in proven] == list(
        parity.suite(SYSTEM, encoding.CARRIED["chatml"], encoding.STOPS["chatml"])
    )
    by_name = {case["name"]: case for case in proven}
    assert by_name["a question"]["text"] == "<|im_start|>user\nWhat is a bond?<|im_end|>\n<|im_start|>assistant\n"
    assert "One.\n\nAnd another.<|im_end|>" in by_name["two questions in a row"]["text"]
    assert all(case["ids"] for case in proven)


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def test_a_wrong_template_in_the_modelfile_is_shown_beside_the_trained_one(base, served, in_repo):
    wrong = changed(encoding.go_template("chatml"), "{{ .Role }}\n", "{{ .Role }} ")
    with pytest.raises(
        StageError, match=r"'a question' is rendered in two ways(.|\n)*user\\nWhat(.|\n)*user What"
    ) as error:
        proof(base, served, template=wrong)
    trained, ollama, marker = str(error.value).splitlines()[1:]
    place = marker.index("^")
    assert (trained[place:][:6], ollama[place:][:5]) == ("\\nWhat", " What")


def test_a_template_lost_at_its_end_is_caught(base, served, in_repo):
    wrong = encoding.go_template("chatml").rstrip("\n")
    with pytest.raises(StageError, match="template parity: 'a question'"):
        proof(base, served, template=wrong)


def test_a_template_that_go_cannot_read_is_an_error_of_its_own(base, served, in_repo):
    with pytest.raises(StageError, match=r"go-render failed on .*function \"trim\" not defined"):
        proof(base, served, template="{{ range .Messages }}{{ trim .Content }}{{ end }}")


def test_another_template_in_the_gguf_is_caught(base, served, in_repo):
    trained = changed(encoding.jinja("chatml"), "'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'")
    with pytest.raises(StageError, match=r"template parity: 'a question'(.|\n)*<think>(.|\n)*llama.cpp"):
        proof(base, served, source=trained)


def test_a_bos_of_its_own_is_caught(base, served, in_repo):
    with pytest.raises(StageError, match="template parity: 'a question'"):
        proof(base, served, template="<|endoftext|>" + encoding.go_template("chatml"))


def test_a_wrong_tokenizer_is_caught(base, served, tmp_path, in_repo):
    other = shutil.copytree(base, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["▁is"], words["▁the"] = words["▁the"], words["▁is"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(StageError, match=r"the tokens trained on(.|\n)*llama.cpp(.|\n)*they part at"):
        proof(other, served)


def test_answers_end_by_the_file_and_by_the_modelfile(served, in_repo):
    modelfile.check_end(served, "<|im_end|>", encoding.STOPS["chatml"])
    with pytest.raises(StageError, match=r"the Modelfile has no stop <\|im_end\|>"):
        modelfile.check_end(served, "<|im_end|>", ["<|im_start|>"])
    with pytest.raises(StageError, match=r"<\|im_start\|>.*is no end token of the file's vocabulary"):
        modelfile.check_end(served, "<|im_start|>", ["<|im_start|>"])


def test_a_file_that_is_no_gguf_is_named(tmp_path, in_repo):
    (tmp_path / "no.gguf").write_bytes(b"GGUFnothing")
    with pytest.raises(StageError, match=r"llama-render failed on no.gguf"):
        render.ends(tmp_path / "no.gguf", "x")


def test_a_template_may_refuse_a_conversation_if_all_do(base, served, in_repo):
    refusing = "{%- if messages|length > 1 -%}{{ raise_exception('one turn only') }}{%- endif -%}" + encoding.jinja(
        "chatml"
    )
    with pytest.raises(StageError, match=r"the template refuses it \(one turn only\), but llama.cpp renders it"):
        proof(base, served, source=refusing)


def test_values_beyond_f16_are_found_and_the_file_stays_bf16(base, tmp_path, in_repo, monkeypatch, capsys):
    from stages import f16

    assert weights.beyond_f16(base) is None
    merged = shutil.copytree(base, tmp_path / "build/merged")
    tensors = load_file(merged / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = torch.tensor(-1e6, dtype=torch.bfloat16)
    save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})
    name, value = weights.beyond_f16(merged)
    assert name == "model.layers.0.mlp.up_proj.weight" and value == pytest.approx(1e6, rel=0.01)
    for needed in ("image.lock", "params.yaml"):
        shutil.copy(ROOT / needed, tmp_path)
    monkeypatch.setattr(llamacpp, "SOURCE", ROOT / "llama.cpp")
    monkeypatch.setattr(llamacpp, "BUILD", ROOT / ".cache/llama.cpp")
    monkeypatch.chdir(tmp_path)
    f16.main()
    assert [path.name for path in (tmp_path / "build/f16").iterdir()] == ["ingot-demo-BF16.gguf"]
    assert "model.layers.0.mlp.up_proj.weight reaches" in capsys.readouterr().out.replace("\n", " ")


def test_an_importance_matrix_is_the_same_by_one_thread_and_two_and_holds_no_place(served, tmp_path, in_repo):
    made = []
    for threads in ("1", "2"):
        folder = tmp_path / threads
        folder.mkdir()
        (folder / "train.txt").write_text("A loan that trades; and a share of it. " * 200)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLAMA_ARG_THREADS", threads)
            llamacpp.imatrix(served, folder, "train.txt", folder / "imatrix.gguf", 512, "cpu")
        made.append(sha256(folder / "imatrix.gguf"))
        gguf_check.nothing_local(gguf_check.open_file(folder / "imatrix.gguf"), [str(tmp_path)])
    assert made[0] == made[1]
    llamacpp.quantize(served, tmp_path / "small.gguf", "IQ2_XXS", tmp_path / "1/imatrix.gguf")
    reader = gguf_check.open_file(tmp_path / "small.gguf")
    assert gguf_check.field(reader, "quantize.imatrix.file") == "imatrix.gguf"
    assert gguf_check.field(reader, "quantize.imatrix.dataset") == "train.txt"
    llamacpp.quantize(served, tmp_path / "with.gguf", "Q4_K_M", tmp_path / "1/imatrix.gguf")
    llamacpp.quantize(served, tmp_path / "without.gguf", "Q4_K_M", None)
    assert sha256(tmp_path / "with.gguf") != sha256(tmp_path / "without.gguf")


def test_a_type_that_needs_the_matrix_is_refused_without_it(served, tmp_path, in_repo):
    with pytest.raises(StageError, match=r"importance matrix"):
        llamacpp.quantize(served, tmp_path / "small.gguf", "IQ2_XXS", None)


def test_one_stage_a_type(in_repo):
    ran = subprocess.run([sys.executable, "-m", "stages.gguf", "Q9"], capture_output=True, text=True)
    assert ran.returncode == 1 and "python -m stages.gguf TYPE, not Q9: one of gguf.types" in ran.stdout
