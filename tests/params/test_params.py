"""params.yaml: every fault at once, each with its key's path, its value and what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ingot.params.core import ParamsError, read
from ingot.planning import plan, recipe, validation
from tests.conftest import edited

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "params.yaml"
SCORE = {"match": "number", "pattern": None, "prompts": 10, "tokens": 64, "least": None}


def faults(tmp_path, **changes) -> list[str]:
    file = tmp_path / "params.yaml"
    edited(DEMO, file, {key.replace("__", "."): value for key, value in changes.items()})
    with pytest.raises(ParamsError) as error:
        validation.validate(file)
    return error.value.faults


def test_the_demo_is_sound():
    params = validation.validate(DEMO)
    assert params.adapter.engine == "auto" and params.adapter.device == "cpu"


def test_all_faults_are_reported_at_once(tmp_path):
    found = faults(
        tmp_path, adapter__r=0, adapter__learning_rate="fast", gguf__types=["Q4_K_X"], modelfile__temperature=9, seed=-1
    )
    assert [fault.split(":")[0] for fault in found] == [
        "seed",
        "adapter.r",
        "adapter.learning_rate",
        "gguf.types.0",
        "modelfile.temperature",
    ]
    assert "0: input should be greater than or equal to 1" in found[1]
    assert "'fast'" in found[2]
    assert "'Q4_K_M'" in found[3], "an enum names what is allowed"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"adapter__ranks": 3}, "adapter.ranks: unknown key"),
        ({"adaptor": {}}, "adaptor: unknown section; did you mean 'adapter'?"),
        ({"adapter__r": "32"}, "adapter.r: '32': input should be a valid integer"),
        ({"adapter__packing": "yes"}, "adapter.packing: 'yes': input should be a valid boolean"),
        ({"adapter__precision": "bf16"}, "adapter: precision 'bf16' trains on device cuda only"),
        ({"adapter__optimizer": "paged_adamw_8bit"}, "adapter: optimizer 'paged_adamw_8bit' pages GPU memory"),
        ({"adapter__target_modules": []}, "adapter.target_modules: []: list should have at least 1 item"),
        ({"name": "7b-model"}, "name: '7b-model'"),
        ({"name": "a/b"}, "name: 'a/b'"),
        ({"dataset__eval_share": 0.9}, "dataset.eval_share: 0.9: input should be less than or equal to 0.5"),
        ({"dataset__mix__krx_won__share": 0.3}, "dataset: the shares in `mix` add up to 1.1"),
        ({"raw__datasets__krx_won": {"path": "/etc/passwd"}},
         "raw.datasets.krx_won: path '/etc/passwd' must lie under data/"),
        ({"raw__datasets__krx_won": {"path": "data/../x"}}, "must lie under data/"),
        ({"raw__datasets__krx_won": {"repo": "a/b", "split": "train"}},
         "raw.datasets.krx_won: `repo` needs `revision`"),
        (
            {"raw__datasets__krx_won": {"repo": "a/b", "split": "train", "revision": "main"}},
            "raw.datasets.krx_won.revision: 'main': must be a commit's 40 hexadecimal digits",
        ),
        ({"base__source": "hub"}, "base: source 'hub' needs `repo`"),
        ({"base__tiny__hidden_size": 300}, "base.tiny.hidden_size: 300: input should be a multiple of 256"),
        ({"base__tiny__kv_heads": 3}, "base.tiny: heads (4) must divide hidden_size"),
        ({"gguf__types": ["Q4_K_M", "Q4_K_M"]}, "gguf.types: a type is named twice"),
        ({"modelfile__system": "a\u200db"}, "modelfile.system: the text holds ZERO WIDTH JOINER (U+200D)"),
        ({"modelfile__system": "a<|im_end|>"}, "modelfile.system: the text holds <|im_end|>"),
        ({"merged__base": "nf4", "adapter__method": "lora"}, "merged.base: 'nf4' is what a qlora"),
        ({"merged__base": "nf4", "adapter__method": "dora"},
         "adapter.method is 'dora', double_quant true: take original"),
        ({"merged__base": "nf4", "adapter__method": "full"}, "merged.base: 'nf4' is what a qlora"),
        ({"evaluation__prompts": 500}, "evaluation.prompts: 500: dataset.total_samples gives 100 at most"),
        ({"modelfile__num_ctx": 64}, "modelfile.num_ctx: 64: less than max_seq_length (160)"),
        ({"evaluation__score": SCORE | {"match": "regex"}},
         "evaluation.score: match regex needs a pattern (null)\nhint: "),
        ({"evaluation__score": SCORE | {"match": "regex", "pattern": "a"}},
         "evaluation.score: pattern has 0 groups, not one ('a')"),
        ({"evaluation__score": SCORE | {"match": "regex", "pattern": "(a"}},
         "evaluation.score: pattern is no regular expression"),
        ({"evaluation__score": SCORE | {"pattern": "(a)"}},
         "evaluation.score: pattern is not used with match number ('(a)')"),
        ({"evaluation__score": SCORE | {"tokens": 512}},
         "evaluation.score.tokens: answers of that length fill the context"),
        ({"evaluation__score": {"match": "number"}}, "evaluation.score.tokens: missing"),
        ({"evaluation__word_for_word": 99}, "evaluation: word_for_word (99) cannot exceed prompts (40)"),
    ],
)  # fmt: skip
def test_each_fault_names_key_value_and_reason(tmp_path, change, fault):
    found = faults(tmp_path, **change)
    assert any(fault in line for line in found), found


def test_a_mixed_dataset_that_is_not_fetched_is_named(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(DEMO.read_text().replace("    krx_won:\n", "    krx_on:\n"))
    with pytest.raises(
        ParamsError, match=r"dataset.mix.krx_on: raw.datasets has no such dataset; did you mean 'krx_won'"
    ):
        validation.validate(file)


def test_missing_section_broken_yaml_and_missing_file(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(DEMO.read_text().replace("merged:\n", "merge:\n"))
    with pytest.raises(ParamsError, match="merged: missing") as error:
        validation.validate(file)
    assert any("merge: unknown section; did you mean 'merged'?" in fault for fault in error.value.faults)
    file.write_text("a: [1,\n")
    with pytest.raises(ParamsError, match="not readable as YAML"):
        validation.validate(file)
    with pytest.raises(ParamsError, match="no such file"):
        validation.validate(tmp_path / "none.yaml")


@pytest.mark.parametrize("method", ["qlora", "lora", "dora", "ia3", "full", "prompt", "prefix"])
def test_every_method_is_planned_by_what_it_makes(tmp_path, method):
    file = tmp_path / "params.yaml"
    edited(ROOT / "recipes/qwen2.5-7b-kospi.yaml", file, {"adapter.method": method, "adapter.packing": False})
    params = validation.validate(file)
    needs = {need.stage: need.disk for need in plan.needs(params)}
    beside = method in ("prompt", "prefix")
    assert bool(validation.no_gguf(params)) == beside
    assert list(needs) == ["base", "adapter"] + ([] if beside else ["merged", "f16", "gguf"])
    if method == "full":  # 16-bit weights, and three checkpoints in float32 with 8-bit moments
        assert needs["adapter"] == params.base.parameters * (2 + 3 * (4 + 2))
    else:
        assert needs["adapter"] < 2_500_000_000
    assert any(f"weights ({method})" in line for _, line in plan.training(params, None))


def test_the_disk_that_a_scored_base_takes_is_planned(tmp_path):
    assert "evaluation" not in [need.stage for need in plan.needs(validation.validate(DEMO))]
    file = tmp_path / "params.yaml"
    edited(DEMO, file, {"evaluation.score": SCORE})
    needs = {need.stage: need.disk for need in plan.needs(validation.validate(file))}
    assert needs["evaluation"] == needs["f16"] + needs["gguf"]


def test_scientific_notation_is_a_number(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(DEMO.read_text().replace("learning_rate: 3.0e-3", "learning_rate: 3e-3"))
    assert validation.validate(file).adapter.learning_rate == 0.003


def test_every_recipe_is_sound():
    found = sorted({*(ROOT / "recipes").glob("*.yaml")} - {recipe.DEFAULTS})
    assert len(found) >= 12
    for path in found:
        params, text = recipe.params(path), path.read_text()
        assert params.name == path.stem and len(text.splitlines()) <= 60, "a recipe fits on one screen"
        # Nothing is said that the defaults say, and what is said stands in the whole file, which is used as it is.
        whole, defaults = (YAML(typ="safe").load(one) for one in (recipe.expanded(path), recipe.DEFAULTS.read_text()))
        assert not [
            key for key in flat(YAML(typ="safe").load(text)) if recipe.at(defaults, key) == recipe.at(whole, key)
        ]
        assert all(recipe.at(whole, key) == value for key, value in flat(YAML(typ="safe").load(text)).items())
        assert whole["modelfile"]["system"] == whole["dataset"]["system"]


def flat(values, place: str = "") -> dict:
    """Dotted keys and their values; of a recipe's own names nothing below."""
    found = {}
    for key, value in values.items():
        name = f"{place}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and name not in recipe.WHOLE else {name: value}
    return found


def test_every_key_stands_in_the_defaults_or_is_a_recipes_own():
    defaults = YAML(typ="safe").load(recipe.DEFAULTS.read_text())
    demo = YAML(typ="safe").load(DEMO.read_text())
    assert [key for key in flat(demo) if key not in flat(defaults)] == []
    assert {key for key, value in flat(defaults).items() if value is None} >= {*recipe.OWN}


def test_a_recipe_is_written_whole_with_the_comments_of_both(tmp_path):
    text = recipe.expanded(ROOT / "recipes/qwen2.5-7b-kospi.yaml")
    assert text.startswith("# Qwen2.5-7B-Instruct for the Korean equity market") and "by `make use`" in text
    for line in (
        "template: chatml          # Qwen2.5's own format",  # the recipe's
        "  unfit: drop             # fail | drop: a row with an empty turn",  # the defaults'
        "    finance_instruct:     # 80,000 rows, English",
        "  learning_rate: 2.0e-4",
        "  parameters: 7_615_616_512",
    ):
        assert f"\n{line}" in text, line
    assert "\n\n\n" not in text and "From qwen2.5-7b-kospi.yaml" in text
    (tmp_path / "whole.yaml").write_text(text)
    assert recipe.expanded(tmp_path / "whole.yaml") == text, "a whole file is that itself"


def test_a_recipe_that_lacks_what_is_its_own_is_told_by_key(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nadapter: {r: 16, rr: 1}\n")
    with pytest.raises(ParamsError) as told:
        recipe.params(file)
    assert "mine.yaml: 7 faults" in str(told.value) and "raw.datasets: missing: it is the recipe's own to say" in str(
        told.value
    )
    text = (ROOT / "recipes/gemma-3-270m-gsm8k.yaml").read_text()
    file.write_text(text.replace("engine: peft", "engin: peft").replace("epochs: 3", "epochs: many"))
    with pytest.raises(ParamsError) as told:
        recipe.params(file)
    assert "adapter.engin: unknown key" in str(told.value) and "adapter.epochs: 'many'" in str(told.value)
    file.write_text("- a\n")
    with pytest.raises(ParamsError, match="must hold sections"):
        recipe.params(file)
    file.write_text(text.replace("adapter:\n", "adapter: 5\nx:\n"))
    with pytest.raises(ParamsError, match="adapter: 5"):
        recipe.params(file)


def test_what_differs_from_the_defaults_is_shown(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(recipe.expanded(ROOT / "recipes/gemma-3-270m-gsm8k.yaml"))
    shown = list(recipe.differences(file))
    assert "adapter.engine: auto → peft" in shown and "dataset.clean.near_duplicates: 0.85 → None" in shown
    assert not any(line.startswith(("adapter.r:", "seed", "container")) for line in shown)


def test_the_kospi_recipe_holds_the_numbers_of_its_document():
    params = recipe.params(ROOT / "recipes/qwen2.5-7b-kospi.yaml")
    assert params.dataset.total_samples == 200_000
    counts = {name: part.share * params.dataset.total_samples for name, part in params.dataset.mix.items()}
    assert [round(count) for count in counts.values()] == [80_000, 50_000, 40_000, 20_000, 10_000]
    training = params.adapter
    assert (training.r, training.alpha, training.dropout) == (32, 16, 0.0)
    assert (training.epochs, training.batch_size * training.accumulation) == (2, 16)
    assert (training.learning_rate, training.warmup, training.scheduler) == (2e-4, 0.1, "cosine")
    assert (training.logging_steps, training.save_steps, training.save_total_limit) == (25, 500, 3)
    assert (training.optimizer, training.packing, params.max_seq_length) == ("adamw_8bit", True, 2048)
    assert (params.modelfile.temperature, params.modelfile.num_predict) == (0.3, 4096)


def test_one_prompt_is_trained_and_served(tmp_path):
    path = tmp_path / "params.yaml"

    def of(trained: str, served: str, unicode: str = "NFC") -> validation.Params:
        data = read(DEMO)
        data["dataset"]["system"], data["modelfile"]["system"] = trained, served
        data["dataset"]["clean"]["unicode"] = unicode
        path.write_text(json.dumps(data))
        return validation.validate(path)

    for way in ("You are careful.\nAnswer.\n", "\r\nYou are careful.\r\nAnswer.", "  You are careful.\nAnswer.  "):
        params = of(way, way)
        assert params.dataset.system == params.modelfile.system == "You are careful.\nAnswer."
    params = of("Cafe\u0301", "Cafe\u0301", "none")
    assert params.dataset.system == params.modelfile.system == "Café"
    with pytest.raises(ParamsError, match=r"modelfile.system: holds forms that dataset.clean.unicode \(NFKC\).*'AB'"):
        of("AB", "ＡＢ", "NFKC")
    with pytest.raises(ParamsError, match=r"modelfile.system: .* is blank"):
        of("AB", " \n")
