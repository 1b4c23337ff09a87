"""The GGUF: converted by upstream's script, nothing of this machine in it, finite, faithful in its template."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ingot.console.progress import StageError
from ingot.exact.files import sha256
from ingot.llama import gguf_check, llamacpp
from ingot.model import tiny
from ingot.model.params import Tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def converted(base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "demo-F16.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        llamacpp.convert(base, out, "demo", "f16")
    return out


@pytest.mark.proof
def test_neither_place_nor_readme_nor_clock_get_into_it(base, converted, tmp_path, in_repo):
    elsewhere = shutil.copytree(base, tmp_path / "Some-Other-7B-Name")
    again = tmp_path / "again.gguf"
    llamacpp.convert(elsewhere, again, "demo", "f16")
    assert sha256(again) == sha256(converted)
    reader = gguf_check.open_file(converted)
    assert gguf_check.field(reader, "general.name") == "demo"
    gguf_check.nothing_local(reader, [str(ROOT), str(base), str(tmp_path)])


def test_a_path_in_the_metadata_is_refused(converted):
    with pytest.raises(StageError, match="holds a path of this machine: demo"):
        gguf_check.nothing_local(gguf_check.open_file(converted), ["demo"])


def test_the_shipped_template_is_the_trained_one(base, converted):
    assert (
        gguf_check.field(gguf_check.open_file(converted), "tokenizer.chat_template")
        == (base / "chat_template.jinja").read_text()
    )


@pytest.mark.proof
@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "f16"), (1e30, "f16"), (float("inf"), "bf16")])
def test_nan_and_overflow_are_refused(base, tmp_path, in_repo, value, kind):
    folder = shutil.copytree(base, tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = torch.tensor(value, dtype=torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out.gguf"
    llamacpp.convert(folder, out, "demo", kind)
    with pytest.raises(StageError, match=r"blk.0.ffn_up.weight: holds NaN or infinity"):
        gguf_check.all_finite(gguf_check.open_file(out))


def test_quantised_bytes_are_the_same_each_time(converted, tmp_path, in_repo):
    gguf_check.all_finite(gguf_check.open_file(converted))
    llamacpp.quantize(converted, tmp_path / "1.gguf", "Q4_K_M", None)
    llamacpp.quantize(converted, tmp_path / "2.gguf", "Q4_K_M", None)
    assert sha256(tmp_path / "1.gguf") == sha256(tmp_path / "2.gguf")


def test_tensors_in_another_type_are_counted_as_the_quantiser_does(tmp_path, in_repo):
    shape = Tiny(seed=1, hidden_size=256, intermediate_size=256, layers=1, heads=4, kv_heads=2, positions=64, std=0.08)
    odd = shape.model_copy(
        update={"hidden_size": 128}
    )  # rows of half a block, as Qwen2.5 0.5B's 896 are no whole number
    (tmp_path / "odd").mkdir()
    tiny.make(tmp_path / "odd", odd, ROOT / "llama.cpp/models")
    llamacpp.convert(tmp_path / "odd", tmp_path / "full.gguf", "odd", "f16")
    said = llamacpp.quantize(tmp_path / "full.gguf", tmp_path / "small.gguf", "Q4_K_M", None)
    assert (found := re.search(r"(\d+) of \d+ tensor\(s\) required fallback", said))
    assert (
        gguf_check.fallbacks(tmp_path / "small.gguf", "Q4_K_M") == int(found[1]) + 1
    )  # the tied output, by a rule of its own
    assert gguf_check.fallbacks(tmp_path / "small.gguf", "Q8_0") == 0


def test_a_failing_tool_is_quoted(tmp_path, in_repo):
    (tmp_path / "no.gguf").write_bytes(b"not a gguf")
    with pytest.raises(StageError, match="llama-quantize ended with status"):
        llamacpp.quantize(tmp_path / "no.gguf", tmp_path / "out.gguf", "Q4_K_M", None)


def test_the_submodule_is_the_pinned_commit_unchanged(in_repo):
    from ingot.sealing import llama_source

    assert llama_source.check_submodule() == "0c1e57098bba43ac29e6e3b677cdceebdd22334f"


def test_a_changed_converter_is_noticed(tmp_path, in_repo, monkeypatch):
    from ingot.sealing import llama_source

    clone = tmp_path / "clone"
    llama_source.git("clone", "-q", "--no-checkout", str(ROOT), str(clone))
    monkeypatch.chdir(clone)
    llama_source.git("reset", "-q")
    llama_source.git(
        *["-c", "protocol.file.allow=always", "-c", f"submodule.llama.cpp.url={ROOT / '.git/modules/llama.cpp'}"],
        *["submodule", "update", "--init", "llama.cpp"],
    )
    llama_source.check_submodule()
    with open("llama.cpp/convert_hf_to_gguf.py", "a") as file:
        file.write("# mine\n")
    with pytest.raises(llama_source.ToolchainError, match=r"llama.cpp has changes(.|\n)*convert_hf_to_gguf.py"):
        llama_source.check_submodule()
    llama_source.git("-C", "llama.cpp", "stash", "-q")
    llama_source.git(
        "-C", "llama.cpp", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "x"
    )
    with pytest.raises(llama_source.ToolchainError, match=r"pinned is 0c1e57098bba: run `git submodule update"):
        llama_source.check_submodule()


def test_the_converter_runs_with_the_versions_that_upstream_pins(in_repo):
    from ingot.llama import llamacpp

    asked = (ROOT / "llama.cpp/requirements/requirements-convert_legacy_llama.txt").read_text()
    pinned = re.search(r"^transformers==(\S+)", asked, re.M)[1]
    code = "import numpy, torch, transformers; print(transformers.__version__, numpy.__version__)"
    environment = os.environ | {"PYTHONPATH": str(llamacpp.CONVERTER)}
    seen = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    transformers, numpy = seen.stdout.split()
    assert transformers == pinned and numpy.startswith("2.2.")
