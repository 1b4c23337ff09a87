"""Every family that is carried goes through every stage; what is not carried is refused by name."""

from __future__ import annotations

import functools
import json
import sys
from itertools import compress, groupby
from operator import itemgetter
from pathlib import Path
from typing import get_args

import numpy
import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from ingot.chat import counting, encoding, parity, render, token_files
from ingot.console.progress import StageError
from ingot.exact.pins import pins
from ingot.model import base_check, weights
from ingot.params.core import Template
from ingot.serving.params import MARK
from tests import families
from tests.conftest import MICRO, ROOT, Clone, edited

# Answers of one turn and of several, with a system prompt of their own or the params'.
SAID = [
    [("user", f"What is {number}?"), ("assistant", f"The number {number}, 숫자 {number}.")] for number in range(6)
] + [
    [("system", "Be brief."), ("user", f"{number}+1?"), ("assistant", f"{number + 1}"),
     ("user", "-1?"), ("assistant", "0 🙂")]
    for number in range(6)
]  # fmt: skip
# One process for all stages: PyTorch is imported once. The base is taken whole, then in shards, as real ones lie.
STAGES = """
import sys
from pathlib import Path
import stages
from ingot.console import progress
from tests import families
from stages import adapter, base, dataset, evaluation, f16, gguf, imatrix, merged, modelfile, raw
sys.argv = ["stages.gguf", "Q4_K_M"]
[folder] = (path for path in Path("models").iterdir() if path.is_dir())
progress.start(base.main)
families.cut(folder)
for stage in (raw, base, dataset, adapter, merged, f16, imatrix, gguf, modelfile, evaluation):
    progress.start(stage.main)
"""


ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "A bond?"},
    {"role": "assistant", "content": "A loan."},
    {"role": "user", "content": "A share?"},
]
SPEAKER = {  # whose tokenizer
    "chatml": "qwen2", "llama3": "llama3", "llama2": "llama2", "mistral": "mistral", "gemma": "gemma", "phi4": "phi4",
    "deepseek-r1": "r1_llama",
}  # fmt: skip
EVERY = pytest.mark.parametrize("template", list(encoding.TEMPLATES))


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """A folder with a tokenizer's files, made once; by its maker's name in families.py."""

    @functools.cache
    def made(name: str) -> Path:
        out = tmp_path_factory.mktemp(name)
        families.TOKENIZERS[name](out)
        return out

    return made


@pytest.fixture(scope="session")
def tokenizer_of(folder_of):
    return functools.cache(lambda name: encoding.load_tokenizer(folder_of(name)))


def test_params_know_the_templates_that_there_are():
    assert get_args(Template) == tuple(encoding.TEMPLATES)
    assert sorted(path.stem for path in encoding.FOLDER.iterdir()) == sorted([*encoding.TEMPLATES, *encoding.TEMPLATES])


@EVERY
def test_a_template_fits_its_familys_tokens(template, tokenizer_of):
    encoding.check_template(tokenizer_of(SPEAKER[template]), template)


@EVERY
def test_go_renders_every_conversation_as_the_jinja_does(template, tokenizer_of, in_repo):
    tokenizer, refused = tokenizer_of(SPEAKER[template]), []
    suite = parity.suite("Be brief.", encoding.CARRIED[template], encoding.STOPS[template])
    for (name, messages), go in zip(
        suite.items(), render.by_go(encoding.go_template(template), suite.values()), strict=True
    ):
        try:
            text = encoding.render(tokenizer, messages, encoding.jinja(template), ask=True)
        except TemplateError as error:
            refused.append(name)
            assert f"The {template} template" in str(error)
        else:
            assert go == {"text": text.removeprefix(encoding.TEMPLATES[template].bos or "")}, name
    strict = template in ("llama2", "mistral", "gemma")
    assert refused == (["two questions in a row", "two answers in a row"] if strict else [])


@EVERY
def test_trained_are_the_answers_words_and_their_end_token(template, tokenizer_of):
    tokenizer, end = tokenizer_of(SPEAKER[template]), encoding.END_OF_TURN[template]
    said = [*ASKED, {"role": "assistant", "content": "일부 🙂"}]
    encoded = encoding.encode(tokenizer, said, encoding.jinja(template), end)
    runs = [
        list(run) for trained, run in groupby(zip(encoded.trained, encoded.ids, strict=True), itemgetter(0)) if trained
    ]
    pieces = [tokenizer.decode([token for _, token in run]) for run in runs]
    assert [piece.replace(" ", "") for piece in pieces] == [f"Aloan.{end}", f"일부🙂{end}"]
    [counted] = counting.Counter(tokenizer, template, 1000)([said])
    assert (counted.tokens, counted.trained) == (len(encoded.ids), sum(encoded.trained))


@EVERY
def test_what_marks_a_turn_can_be_forged_by_no_text(template, tokenizer_of):
    tokenizer = tokenizer_of(SPEAKER[template])
    counter = counting.Counter(tokenizer, template, 1000)
    for mark in encoding.STOPS[template]:
        assert MARK.fullmatch(mark), "and modelfile.system may not hold it either"
        assert mark in encoding.markers(tokenizer, template)
        said = [{"role": "user", "content": f"x {mark} y"}, {"role": "assistant", "content": "z"}]
        if mark != encoding.END_OF_TURN[template]:
            assert counter.forged(said, counter([said])[0])
    fair = [*ASKED[1:3], *ASKED[1:3]]
    assert not counter.forged(fair, counter([fair])[0])


def test_the_end_token_is_trained_though_it_pads(tokenizer_of):
    """The R1 distills pad with what ends an answer; a collator that masked padding by id would mask the end, too."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tokenizer = tokenizer_of("r1_llama")
    end = tokenizer.convert_tokens_to_ids(encoding.END_OF_TURN["deepseek-r1"])
    assert tokenizer.pad_token_id == end
    rows = [encoding.encode(tokenizer, ASKED[:3], encoding.jinja("deepseek-r1"), "<｜end▁of▁sentence｜>"),
            encoding.encode(tokenizer, ASKED[1:3], encoding.jinja("deepseek-r1"), "<｜end▁of▁sentence｜>")]  # fmt: skip
    batch = DataCollatorForLanguageModeling(pad_token_id=end)(
        [{"input_ids": r.ids, "labels": numpy.where(r.trained, r.ids, token_files.IGNORED).tolist()} for r in rows]
    )
    assert (batch["labels"] == end).sum() == 2 and (batch["input_ids"] == end).sum() > 2


def test_an_end_that_is_no_token_is_never_trained(tokenizer_of):
    source = encoding.jinja("llama2").replace("</s>", "<|eot_id|>")
    with pytest.raises(
        StageError, match=r"does not end with <\|eot_id\|> as one token, so the model would never learn to stop"
    ):
        encoding.encode(tokenizer_of("llama2"), ASKED[:3], source, "<|eot_id|>")


@pytest.mark.parametrize(
    ("tokenizer", "template", "said"),
    [
        ("llama3", "chatml", r"no control token <\|im_start\|> or <\|im_end\|>.*fit template: llama3;"),
        ("llama2", "mistral", r"no control token \[INST\] or \[/INST\].*Mistral 7B v0.3.*fit template: llama2;"),
        ("mistral", "gemma", r"no control token <start_of_turn>.*fit template: llama2 or mistral;"),
        (
            "r1_llama",
            "llama3",
            r"no control token <\|eot_id\|>.*fit template: deepseek-r1;|begins with.*fit template: deepseek-r1;",
        ),
        ("gemma", "phi4", r"no control token.*Phi-4.*fit template: gemma;"),
    ],
)
def test_a_template_of_another_family_is_refused_by_name(tokenizer, template, said, tokenizer_of):
    with pytest.raises(StageError, match=said):
        encoding.check_template(tokenizer_of(tokenizer), template)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8},
            "MixtralForCausalLM is not carried: it is a mixture",
        ),
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128},
            "Qwen3MoeForCausalLM is not carried: it is a mixture",
        ),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}}, "it sees or hears"),
        ({"architectures": ["BertModel"]}, "BertModel is not carried: it is no causal language model"),
        ({"architectures": ["MambaForCausalLM"]}, "nothing proves .* Those that are: Qwen2ForCausalLM"),
        ({"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\)"),
        ({}, "the architecture none is not carried"),
    ],
)
def test_an_architecture_that_is_not_carried_is_refused_by_name(config, said, tmp_path):
    with pytest.raises(StageError, match=said):
        base_check.check_architecture(tmp_path, config)


@pytest.mark.proof
def test_tokenizer_files_saved_anew_are_refused_before_training(tmp_path, in_repo):
    """Without tokenizer.model the converter gives every word one score, so its merges are wrong and nothing says so."""
    families.make("llama2", tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(StageError, match=r"do not agree\. Choose another base[\s\S]*the tokens trained on"):
        base_check.check(tmp_path, "llama2", 64)
    families.change(tmp_path / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    with pytest.raises(StageError, match=r"do not agree \(transformers 5 has saved its tokenizer anew"):
        base_check.check(tmp_path, "llama2", 64)


@pytest.mark.parametrize("name", ["llama2", "r1_llama"])
def test_a_tokenizer_is_loaded_as_its_file_says(name, folder_of, tokenizer_of):
    """By the class that these name, transformers 5 would make others."""
    tokenizer, text = tokenizer_of(name), "한국어 code_x 12345\n\n  end"
    text = f"{tokenizer.bos_token}{text}{tokenizer.eos_token}{text}"
    said = Tokenizer.from_file(str(folder_of(name) / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == said
    other = AutoTokenizer.from_pretrained(str(folder_of(name)))
    assert other(text, add_special_tokens=False)["input_ids"] != said


def test_only_the_template_and_the_space_are_changed_in_what_is_shipped(folder_of, tmp_path):
    from ingot.model import tokenizer_files

    for name, prefix in (("llama2", None), ("mistral", False), ("gemma", None)):
        base, out = folder_of(name), tmp_path / name
        out.mkdir()
        tokenizer_files.files(base, "T", out)
        assert (out / "chat_template.jinja").read_text() == "T"
        before, after = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (base, out))
        assert after == before | ({} if prefix is None else {"add_prefix_space": prefix})
        for file in ("tokenizer.model", "tokenizer.json"):
            assert (out / file).read_bytes() == (base / file).read_bytes()


@pytest.mark.proof
@pytest.mark.parametrize("name", sorted(families.FAMILIES.keys() - {"qwen2"}))  # Qwen2 is what the demo is
def test_a_family_goes_through_every_stage(name, tmp_path, in_repo):
    family, clone = families.FAMILIES[name], Clone(tmp_path)
    base = tmp_path / "models" / name
    base.mkdir()
    families.make(name, base)
    rows = [{"messages": [{"role": role, "content": text} for role, text in said]} for said in SAID]
    (tmp_path / "data/said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {key: value for key, value in MICRO.items() if key.split(".")[0] not in ("base", "evaluation")} | {
        "name": name,
        "template": family.template,
        "max_seq_length": 256,
        "raw.datasets": {"said": {"path": "data/said.jsonl"}},
        "base": {"source": "local", "path": f"models/{name}", "parameters": weights.parameters(base)},
        "dataset.total_samples": len(SAID),
        "dataset.short": "all",
        "dataset.eval_share": 0.25,
        "dataset.clean.near_duplicates": None,
        "dataset.clean.leaks": None,
        "dataset.mix": {"said": {"share": 1.0, "columns": "openai"}},
        "adapter.target_modules": family.targets,
        # Two steps teach nothing, so nothing is asked of the answers; llama.cpp must compute what transformers does.
        "evaluation": {
            "device": "cpu",
            "rows": 2,
            "prompts": 0,
            "word_for_word": 0,
            "merge_bases": False,
            "score": None,
            "limits": {"merged_kl": 1000.0, "f16_kl": 0.001, "quantised_kl": 1000.0, "same_top": 0.0, "ended": 0.0},
        },
    }
    edited(ROOT / "params.yaml", tmp_path / "params.yaml", changes)
    clone.sh(sys.executable, "-c", STAGES, **pins("adapter"))

    for stage in ("base", "merged"):
        assert len(list((tmp_path / f"build/{stage}").glob("*.safetensors"))) == 2
    served = tmp_path / f"build/gguf/{name}-Q4_K_M.gguf"
    end = encoding.END_OF_TURN[family.template]
    assert render.ends(served, end)
    tokenizer = encoding.load_tokenizer(tmp_path / "build/base")
    source = (tmp_path / "build/adapter/chat_template.jinja").read_text(encoding="utf-8")
    assert source == encoding.jinja(family.template)
    for row in map(json.loads, (tmp_path / "build/dataset/train.jsonl").read_text(encoding="utf-8").splitlines()):
        encoded = encoding.encode(tokenizer, row["messages"], source, end)
        text = encoded.text.removeprefix(tokenizer.bos_token if encoding.TEMPLATES[family.template].bos else "")
        assert render.tokenized(served, [text]) == [encoded.ids]
        assert [*compress(encoded.ids, encoded.trained)].count(tokenizer.convert_tokens_to_ids(end)) == sum(
            message["role"] == "assistant" for message in row["messages"]
        )
