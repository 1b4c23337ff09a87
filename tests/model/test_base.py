"""A base is refused before training when the rest of the pipeline could not carry it; the real converter judges."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time

import numpy
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_tensors

from ingot.console.progress import StageError
from ingot.model import base_check, base_files, base_tensors
from tests import families
from tests.conftest import MICRO, Clone, small_base

SMALL = MICRO["base"]["parameters"]


@pytest.fixture
def copy(base, tmp_path, in_repo):
    """A copy of the base, to spoil."""
    return shutil.copytree(base, tmp_path / "base")


@pytest.fixture
def qwens(qwen, tmp_path, in_repo):
    """A copy of the one with Qwen2's tokenizer."""
    return shutil.copytree(qwen, tmp_path / "base")


def with_rows(folder, name: str, rows: dict[int, torch.Tensor]) -> None:
    """Put other rows into a matrix of the base, which may have an output matrix of its own from then on."""
    (file,) = [path for path in folder.glob("*.safetensors") if "model.embed_tokens.weight" in load_file(path)]
    tensors = load_file(file)
    matrix = tensors.get(name, tensors["model.embed_tokens.weight"]).clone()
    for token, row in rows.items():
        matrix[token] = row
    save_tensors(tensors | {name: matrix}, file)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# How a base says of its end token that no text had it; a token that shares its direction with a few others was trained.
UNTRAINED = {
    "zero": (EMBEDDING, lambda rows, end: {end: rows[end] * 0}, "is zero"),
    "of an output matrix": (HEAD, lambda rows, end: {end: rows[end] * 1e-6}, "row of lm_head.weight is zero"),
    "added": (EMBEDDING, lambda rows, end: {end: rows.float().mean(0)}, "is the mean of all rows"),
    "in a crowd": (
        EMBEDDING,
        lambda rows, end: {token: rows[0] * 0.9 + rows[token] * 0.1 for token in (end, *range(1, 30))},
        "is like those of 30 tokens that no text has",
    ),
    "beside a few": (EMBEDDING, lambda rows, end: {token: rows[0] for token in (end, *range(1, 5))}, None),
    "trained": (EMBEDDING, lambda rows, end: {}, None),
}


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("kind", UNTRAINED)
def test_an_end_token_that_was_never_trained_is_told(copy, kind, shards):
    """Measured on Gemma 3 270M, the base: after 23 updates no answer ended, which only the evaluation told."""
    if shards:
        families.cut(copy)
    name, rows, why = UNTRAINED[kind]
    end = tokens_of(copy)["<|im_end|>"]
    whole = next(tensors[EMBEDDING] for path in copy.glob("*.safetensors") if EMBEDDING in (tensors := load_file(path)))
    with_rows(copy, name, rows(whole, end))
    said = base_check.untrained_end(copy, "chatml")
    if why is None:
        assert said is None
    else:
        assert "was never trained on <|im_end|>, which ends an answer in template chatml" in said and why in said
        assert "\n  hint: it takes some hundred updates" in said


def tokens_of(folder) -> dict[str, int]:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    return {one["content"]: one["id"] for one in added}


def test_the_base_stage_tells_it_and_goes_on(copy, in_repo, tmp_path):
    with_rows(copy, EMBEDDING, {tokens_of(copy)["<|im_end|>"]: torch.zeros(1)})
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone")
    clone.micro()
    shutil.rmtree(clone.folder / "models/small")
    shutil.copytree(copy, clone.folder / "models/small")
    said = clone.sh("python", "-m", "stages.base", INGOT_RUNTIME="host").stdout
    assert "the base was never trained on <|im_end|>" in " ".join(said.split())
    assert (clone.folder / "build/base/config.json").is_file()


def change(file, **values) -> None:
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps(content))


def test_a_sound_base_is_counted(qwen, in_repo):
    assert base_check.check(qwen, "chatml", 160) == 39_290_112


def test_an_architecture_that_is_not_carried(copy):
    change(copy / "config.json", architectures=["Qwen9ForCausalLM"])
    with pytest.raises(StageError, match="architecture Qwen9ForCausalLM is not carried"):
        base_check.check(copy, "chatml", 160)


def test_a_pre_tokenizer_that_the_converter_does_not_know(qwens):
    tokenizer = json.loads((qwens / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][1000:]
    (qwens / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(StageError, match="converter does not know its pre-tokenizer"):
        base_check.check(qwens, "chatml", 160)


def test_an_embedding_of_other_rows_than_the_config_says(copy):
    change(copy / "config.json", vocab_size=1000)
    with pytest.raises(StageError, match="vocab_size 1000, but the embedding has 2580 rows"):
        base_check.check(copy, "chatml", 160)


def test_more_tokens_than_embedding_rows(copy):
    change(copy / "config.json", vocab_size=1000)
    rows = numpy.zeros((1000, 256), dtype=numpy.float16)
    save_file({"model.embed_tokens.weight": rows}, copy / "model.safetensors")
    with pytest.raises(StageError, match="tokenizer has 2580 tokens but the embedding only 1000 rows"):
        base_check.check(copy, "chatml", 160)


def test_a_tokenizer_that_is_not_the_one_of_its_config(qwens):
    """What rewrites a text before it is split, llama.cpp does not do."""
    tokenizer = json.loads((qwens / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "trades"}, "content": "swims"}
    (qwens / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(StageError, match=r"do not agree[\s\S]*'several turns' is rendered in two ways"):
        base_check.check(qwens, "chatml", 160)


def test_markers_that_are_no_control_tokens(qwens):
    text = (qwens / "tokenizer.json").read_text().replace("<|im_end|>", "<|other|>")
    (qwens / "tokenizer.json").write_text(text)
    change(qwens / "tokenizer_config.json", eos_token="<|endoftext|>")
    with pytest.raises(StageError, match=r"no control token <\|im_end\|>, which the chatml template"):
        base_check.check(qwens, "chatml", 160)


def test_missing_weights_and_files(copy):
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    shutil.copy(copy / "model-00001-of-00002.safetensors", copy / "model-00003-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StageError, match=r"lists model-00002-of-00002.safetensors, which is not there"):
        base_check.check(copy, "chatml", 160)
    shutil.copy(copy / "model-00001-of-00002.safetensors", copy / "model-00002-of-00002.safetensors")
    with pytest.raises(StageError, match=r"model-00003-of-00002.safetensors is in no model.safetensors.index.json"):
        base_check.check(copy, "chatml", 160)
    (copy / "tokenizer_config.json").rename(copy / "elsewhere")
    (copy / "model-00003-of-00002.safetensors").unlink()
    with pytest.raises(StageError, match=r"no tokenizer_config.json: without it the converter writes no chat template"):
        base_check.check(copy, "chatml", 160)
    for path in copy.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(StageError, match=r"no model\*.safetensors"):
        base_check.check(copy, "chatml", 160)
    (copy / "config.json").unlink()
    with pytest.raises(StageError, match=r"config.json: missing"):
        base_check.check(copy, "chatml", 160)


@pytest.mark.parametrize(
    ("name", "spoiled", "message"),
    [
        ("model.layers.0.self_attn.q_proj.bias", None, "q_proj.bias is missing, which config.json asks for"),
        ("model.norm.weight", torch.ones(128), r"model.norm.weight is \[128\], by config.json it is \[256\]"),
        ("model.norm.weight", torch.ones(256, dtype=torch.int8), "model.norm.weight is I8; take a base in 16 or 32"),
        ("model.norm.weight", torch.full((256,), float("nan")), "model.norm.weight holds NaN or infinity"),
    ],
)
def test_weights_that_are_not_what_the_config_says(qwens, name, spoiled, message):
    """transformers would draw what is missing at random, and train on it."""
    tensors = load_file(qwens / "model.safetensors")
    del tensors[name]
    save_tensors(tensors | ({} if spoiled is None else {name: spoiled}), qwens / "model.safetensors")
    with pytest.raises(StageError, match=message):
        base_check.check(qwens, "chatml", 160)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{oops", "config.json: cannot be read as JSON"),
        ("config.json", "[]", "config.json: holds a list, not an object"),
        ("tokenizer.json", "{", "tokenizer.json: cannot be read as JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: holds a list, not an object"),
        ("model.safetensors", "cut", "model.safetensors: damaged or cut off"),
        ("model.safetensors.index.json", "{}", "model.safetensors is in no model.safetensors.index.json"),
    ],
)
def test_damaged_files_are_named(copy, file, content, message):
    (copy / file).write_text(content)
    with pytest.raises(StageError, match=message):
        base_check.check(copy, "chatml", 160)


def test_drawn_twice_the_base_is_the_same_file(qwen, tmp_path, in_repo):
    from ingot.exact.files import sha256
    from ingot.model import tiny
    from ingot.model.params import Tiny

    shape = Tiny(seed=1, hidden_size=256, intermediate_size=256, layers=1, heads=4, kv_heads=2, positions=256, std=0.08)
    tiny.make(tmp_path, shape, in_repo / "llama.cpp/models")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert sha256(tmp_path / name) == sha256(qwen / name), name


def by_transformers(folder) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")


def beside_its_index(folder) -> None:
    names = load_file(folder / "model.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("cut", [families.cut, by_transformers, beside_its_index])
def test_a_base_in_shards_is_a_base(copy, cut):
    cut(copy)
    assert base_files.tidy(copy) == []
    assert base_check.check(copy, "chatml", 160) == SMALL
    assert (copy / "model.safetensors.index.json").is_file(), "what follows reads it"


def test_an_index_of_files_that_are_not_there_is_left_out_where_the_weights_are_whole(copy):
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (line,) = base_files.tidy(copy)
    assert "it lists 1 files that are not there, and model.safetensors is whole" in line
    assert base_check.check(copy, "chatml", 160) == SMALL


@pytest.mark.parametrize("shards", [False, True])
def test_buffers_that_are_no_weights_are_left_out(copy, shards):
    before = load_file(copy / "model.safetensors")
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(32)}
    save_tensors(before | buffer, copy / "model.safetensors", metadata={"format": "pt"})
    (copy / "model.safetensors").chmod(0o444)  # as a download is
    if shards:
        families.cut(copy)
    (line,) = base_files.tidy(copy)
    assert "left out 1 tensors of model" in line and "rotary_emb.inv_freq" in line
    after = {name: tensor for path in copy.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert after.keys() == before.keys() and all(after[name].equal(before[name]) for name in before)
    assert base_check.check(copy, "chatml", 160) == SMALL
    if shards:
        listed = json.loads((copy / "model.safetensors.index.json").read_text())["weight_map"]
        assert listed.keys() == before.keys()


@pytest.mark.parametrize(
    "name", ["v_head.summary.weight", "model.layers.0.mlp.up_proj.SCB", "model.layers.7.mlp.up_proj.weight"]
)
def test_a_tensor_that_the_architecture_does_not_have_is_refused_by_name(copy, name):
    save_tensors(load_file(copy / "model.safetensors") | {name: torch.ones(1, 256)}, copy / "model.safetensors")
    assert base_files.tidy(copy) == []
    with pytest.raises(StageError, match=f"{name} is no tensor of LlamaForCausalLM"):
        base_check.check(copy, "chatml", 160)


def test_an_output_matrix_of_its_own_must_be_the_embedding_where_the_config_ties_them(copy):
    tensors = load_file(copy / "model.safetensors")
    own = tensors["model.embed_tokens.weight"].clone()
    save_tensors(tensors | {"lm_head.weight": own}, copy / "model.safetensors")
    assert base_check.check(copy, "chatml", 160) == SMALL + own.numel()
    own[0, 0] += 1
    save_tensors(tensors | {"lm_head.weight": own}, copy / "model.safetensors")
    with pytest.raises(StageError, match="is not the embedding, but config"):
        base_check.check(copy, "chatml", 160)


def test_a_window_that_llama_cpp_does_not_know_must_hold_a_whole_conversation(copy):
    change(copy / "config.json", use_sliding_window=True, sliding_window=128, max_window_layers=0, layer_types=None)
    assert base_check.window(copy) == 128
    with pytest.raises(StageError, match=r"sliding_window is 128, shorter than max_seq_length \(160\)"):
        base_check.check(copy, "chatml", 160)
    base_check.check_window(copy, 128)
    base_check.check_context(copy, 128)
    with pytest.raises(
        StageError, match=r"num_ctx: 129 tokens; the base's sliding_window is 128.*\nhint: set modelfile.num_ctx to 128"
    ):
        base_check.check_context(copy, 129)


@pytest.mark.parametrize("link", ["models/small", "models/of/small", "models"])
def test_a_linked_folder_is_refused_wherever_it_stands_in_the_path(tmp_path, monkeypatch, link):
    """DVC does not look through it: other weights would not be seen."""
    from stages import base as stage

    monkeypatch.chdir(tmp_path)
    path = "models/small" if link == "models" else link
    target = tmp_path / "elsewhere" / (path.removeprefix("models/") if link == "models" else "")
    shutil.copytree(small_base(), target)
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        StageError, match=f"^base.path: {link} is a link to a folder; link the files in it, or copy it$"
    ):
        stage.copy(stage.Path(path), tmp_path / "out")


def test_linked_files_are_a_base(tmp_path, monkeypatch):
    """As a hub's snapshot folder holds them; DVC hashes what they lead to."""
    from stages import base as stage

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/small").mkdir(parents=True)
    for path in small_base().iterdir():
        (tmp_path / "models/small" / path.name).symlink_to(path)
    (tmp_path / "out").mkdir()
    stage.copy(stage.Path("models/small"), tmp_path / "out")
    assert (tmp_path / "out/config.json").read_bytes() == (small_base() / "config.json").read_bytes()
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


ODD = [
    None,
    "x",
    [],
    {},
    [1],
    {"a": 1},
    -1,
    0,
    1.5,
    True,
    2**31,
    10**30,
    float("nan"),
    "\ud800",
    "../x",
    ["Qwen2ForCausalLM"] * 2,
]


def test_configs_of_any_types_and_numbers_are_one_message_or_a_model(copy):
    """500 of them, drawn by a seed: no shape of config.json brings a traceback, or a model without end."""
    drawn, whole = random.Random(5), json.loads((copy / "config.json").read_text())
    keys = [
        *whole,
        "sliding_window",
        "rope_scaling",
        "rope_parameters",
        "head_dim",
        "layer_types",
        "quantization_config",
    ]
    keys += ["auto_map", "text_config", "use_sliding_window", "num_experts", "quantization"]
    began, refused = time.monotonic(), 0
    for _ in range(500):
        config = dict(whole)
        for key in drawn.sample(keys, drawn.randrange(1, 3)):
            config[key] = drawn.choice(ODD)
        (copy / "config.json").write_text(json.dumps(config))
        try:
            found = base_check.check_config(copy)
            base_check.check_architecture(copy, found)
            base_check.check_window(copy, 160)
            base_tensors.check_tensors(copy, base_tensors.tensors_of(copy))
        except StageError as error:
            refused += 1
            assert len(str(error)) < 3000
    assert refused > 200 and time.monotonic() - began < 120


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_files_of_a_base_that_are_cut_or_spoiled_are_one_message(copy, file):
    """Through the whole check, as the stage does it: 15 a file, of which few come as far as the converter."""
    drawn, whole = random.Random(file), (copy / file).read_bytes() if (copy / file).is_file() else b"{}"
    spoils = [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b"\xff\xfe{}",
        b'{"model": {"type": "BPE", "vocab": 5}}',
        b'{"added_tokens": [{}]}',
    ]
    spoils += [whole[: drawn.randrange(len(whole))] for _ in range(8)]
    for data in spoils:
        (copy / file).write_bytes(data)
        try:
            base_check.check(copy, "chatml", 64)
        except StageError as error:
            assert str(copy) in str(error) and "Traceback" not in str(error), data[:50]


@pytest.mark.parametrize(
    ("change_", "message"),
    [
        ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers: 1000000000: must be a number from 0 to 2,000"),
        ({"hidden_size": "256"}, "config.json: hidden_size: '256': must be a number"),
        ({"vocab_size": None}, "config.json: transformers cannot read it: .*vocab_size"),
        ({"sliding_window": "x"}, "sliding_window: 'x': must be a number"),
        ({"architectures": "Qwen2ForCausalLM"}, "architectures: 'Qwen2ForCausalLM': must be a list of names"),
        ({"quantization": {"bits": 4}}, r"its weights are quantised \(MLX\)"),
        ({"quantization_config": {"quant_method": "awq"}}, r"its weights are quantised \(awq\)"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"its weights are quantised \(gptq\)"),
        ({"quantization_config": {"load_in_4bit": True}}, r"its weights are quantised \(by a method without a name\)"),
        ({"compression_config": {"format": "pack"}}, r"its weights are quantised \(compression_config\)"),
        ({"model_type": "odd", "auto_map": {"AutoConfig": "x.C"}}, "config.json: transformers cannot read it"),
    ],
)
def test_what_is_wrong_in_a_config_is_named(copy, change_, message):
    change(copy / "config.json", **change_)
    with pytest.raises(StageError, match=message):
        base_check.check(copy, "chatml", 64)


def test_weights_packed_without_a_word_in_the_config_are_named(copy):
    tensors = load_file(copy / "model.safetensors")
    save_tensors(tensors | {"model.layers.0.mlp.up_proj.qweight": torch.ones(2)}, copy / "model.safetensors")
    with pytest.raises(StageError, match=r"its weights are quantised \(by GPTQ or AWQ\)"):
        base_check.check(copy, "chatml", 64)


@pytest.mark.proof
def test_a_strangers_code_is_neither_run_nor_asked_for(copy):
    """On a terminal, where transformers asks `run the custom code? [y/N]`; nor by the converter, which asks nobody."""
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nclass C: pass\n")
    for file, maps in (
        ("config.json", {"AutoConfig": "evil.C"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.C", "evil.C"]}),
    ):
        before = (copy / file).read_text()
        for values in ({"auto_map": maps}, {"auto_map": maps, "model_type": "odd", "tokenizer_class": "Odd"}):
            change(copy / file, **values)
            code = (
                "import sys; from pathlib import Path; from ingot.console import progress; "
                "from ingot.model import base_check\n"
            )
            code += "progress.start(lambda: base_check.check(Path(sys.argv[1]), 'chatml', 64))"
            ours, theirs = os.openpty()
            ran = subprocess.Popen(
                [sys.executable, "-c", code, str(copy)], stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
            )
            os.close(theirs)
            said = b""
            with contextlib.suppress(OSError):  # its end
                while piece := os.read(ours, 4096):
                    said += piece
            os.close(ours)
            ran.wait(timeout=60)
            assert b"y/N" not in said and b"Traceback" not in said and not (copy / "ran").exists(), said
        (copy / file).write_text(before)


@pytest.mark.parametrize("saved", [{"extra_special_tokens": ["<|im_start|>"]}, {"tokenizer_class": "TokenizersBackend"},
                                   {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}])  # fmt: skip
def test_a_tokenizer_that_transformers_5_has_saved_is_converted(copy, saved):
    whole = base_check.check(copy, "chatml", 64)
    change(copy / "tokenizer_config.json", **saved)
    assert base_check.check(copy, "chatml", 64) == whole


def test_a_tokenizer_model_alone_is_refused_with_what_makes_the_other(copy):
    (copy / "tokenizer.json").rename(copy / "tokenizer.model")
    with pytest.raises(StageError, match=r"no tokenizer.json beside tokenizer.model[\s\S]*hint: .*save_pretrained"):
        base_check.check(copy, "chatml", 64)


def test_pointers_of_git_lfs_are_named(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(StageError, match=r"model.safetensors: is a pointer of Git LFS[\s\S]*git lfs pull"):
        base_files.tidy(copy)
    (copy / "config.json").write_bytes(b"version https://hawser.github.com/spec/v1\r\noid sha256:00\r\nsize 9\r\n")
    with pytest.raises(StageError, match=r"config.json and 1 more: is a pointer of Git LFS"):
        base_files.tidy(copy)


def test_a_web_page_in_a_files_place_is_named(copy):
    (copy / "model.safetensors").write_text("\n<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(StageError, match=r"model.safetensors: is a web page, not the file itself\nhint: download"):
        base_files.tidy(copy)


def test_the_base_stage_names_a_pointer_before_it_reads_weights(copy, in_repo, tmp_path):
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone")
    clone.micro()
    for path in (clone.folder / "models/small").iterdir():
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    said = clone.sh("python", "-m", "stages.base", check=False, INGOT_RUNTIME="host").stdout
    assert "models/small: chat_template.jinja and 6 more" in said and "is a pointer of Git LFS" in said


@pytest.mark.parametrize(
    ("file", "change_", "message"),
    [
        ("tokenizer_config.json", {"model_max_length": "x"}, "model_max_length: 'x': must be a number or a fraction"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, r"added_tokens_decoder: \[1\]: must be a section"),
        (
            "generation_config.json",
            {"eos_token_id": "x"},
            "generation_config.json: eos_token_id: 'x': must be a number or a list",
        ),
    ],
)
def test_a_wrong_type_beside_the_config_is_named_with_file_and_key(copy, file, change_, message):
    if not (copy / file).exists():
        (copy / file).write_text("{}")
    change(copy / file, **change_)
    with pytest.raises(StageError, match=message):
        base_check.check(copy, "chatml", 64)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["q4.gguf", "q8.gguf", "README.md"], r"its weights are GGUF files \(q4.gguf and 1 more\)"),
        (["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"], "it is an adapter .LoRA"),
        (
            ["checkpoint-9", "checkpoint-100", "runs"],
            "its models lie in checkpoint-9, checkpoint-100\nhint: .*/checkpoint-100",
        ),
        (
            ["checkpoint-9/model.safetensors", "checkpoint-9/config.json"],
            "hint: .*/checkpoint-9, or what trainer.save_model",
        ),
        (["trainer_state.json", "optimizer.pt", "pytorch_model.bin"], "is a checkpoint of a Trainer without"),
        (["model_index.json", "unet/model.safetensors"], "is a diffusion pipeline"),
        (["onnx/model.onnx", "config.json"], "its weights are ONNX files"),
        (["weights.npz", "config.json"], "its weights are MLX files"),
        (["Q4/m.gguf", "Q4"], r"its weights are GGUF files \(Q4/m.gguf\)"),
        (
            ["refs/main", "snapshots/ab/config.json", "snapshots/ab/model.safetensors"],
            "hint: name that folder: models/x/snapshots/ab",
        ),
        (["Qwen2", "Qwen2/config.json"], "it holds a model in Qwen2\nhint: name that folder: models/x/Qwen2"),
        (
            ["consolidated.00.pth", "params.json"],
            "consolidated.00.pth: is in the form that the model's makers use themselves",
        ),
        (["consolidated.safetensors", "params.json"], "hint: take the repository with model.safetensors"),
        (
            ["config.json", "model.safetensors.incomplete"],
            "model.safetensors.incomplete: is a download that did not end",
        ),
        (["lora", "lora/adapter_config.json"], "lora/adapter_config.json: it is an adapter"),
        (["model.safetensors", "q4.gguf", "trainer_state.json", "checkpoint-9"], None),
        (["model-00001-of-00002.safetensors", "config.json"], None),
        (["config.json"], None),  # whose check says which file is missing
    ],
)
def test_a_folder_that_is_no_base_is_named_for_what_it_is(names, message):
    if message is None:
        base_files.check_kind(names, "models/x")
        return
    with pytest.raises(StageError, match=message):
        base_files.check_kind(names, "models/x")
