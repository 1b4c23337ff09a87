"""Whether a training fits a card, its time and cost; the fastest setting that fits, and how it is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ingot.console.messages import Fault
from ingot.planning import cards, fit, plan, recipe, speed
from ingot.training import memory
from tests.conftest import ROOT

KOSPI = recipe.params(ROOT / "recipes/qwen2.5-7b-kospi.yaml")
COUNT = KOSPI.base.parameters


def adapter(**changes):
    return KOSPI.adapter.model_copy(update=changes)


def test_a_card_is_found_by_any_spelling_and_by_what_nvidia_smi_calls_it():
    assert cards.find("RTX 3090 Ti").name == "rtx3090ti" and cards.find("a100-80").memory == 81_920
    assert cards.named("NVIDIA GeForce RTX 3090 Ti", 24_564).name == "rtx3090ti"
    assert cards.named("NVIDIA A100-SXM4-40GB", 40_960).name == "a100-40"
    assert cards.named("NVIDIA H100 80GB HBM3", 81_559).tflops == 780
    unknown = cards.named("NVIDIA Quadro K42", 4096)
    assert unknown.memory == 4096 and unknown.tflops == min(card.tflops for card in cards.known().values())
    with pytest.raises(cards.CardError, match=r"GPU=rtx3091: no such card; did you mean 'rtx3090'\?\nhint: add it to"):
        cards.find("rtx3091")


def test_every_card_of_the_file_is_whole_and_every_price_has_a_date_and_a_source():
    assert len(cards.known()) >= 21
    for card in cards.known().values():
        assert all(date[:2] == "20" and source for _, _, date, source in card.prices), card.name


def test_a_fault_in_the_file_of_cards_is_named(tmp_path, monkeypatch):
    broken = tmp_path / "cards.yaml"
    broken.write_text("rtx1: {memory: much, tflops: 1.0, bf16: true}\nrtx2:\n")
    monkeypatch.setattr(cards, "FILE", broken)
    cards.known.cache_clear()
    try:
        with pytest.raises(cards.CardError, match=r"cards.yaml: 4 faults\n  rtx1.memory: 'much': "):
            cards.known()
    finally:
        cards.known.cache_clear()


# What was measured, benchmarks/README.md and FACTS: rows at once, gradient_checkpointing, card, tokens a second.
RATES = [
    (COUNT, {"batch_size": 4, "gradient_checkpointing": "off"}, "h100", 15_588),
    (COUNT, {"batch_size": 8, "gradient_checkpointing": "off"}, "h100", 15_900),
    (COUNT, {"batch_size": 4, "gradient_checkpointing": "off", "method": "lora"}, "h100", 14_146),
    (COUNT, {"batch_size": 2, "gradient_checkpointing": "unsloth"}, "h100", 7_007),
    (COUNT, {"batch_size": 2, "gradient_checkpointing": "off"}, "h200", 9_400),
    (3_085_938_688, {"batch_size": 2, "gradient_checkpointing": "off"}, "h200", 7_700),
    (COUNT, {"batch_size": 2, "gradient_checkpointing": "off", "engine": "peft"}, "h200", 5_900),
    (8_030_261_248, {"batch_size": 2, "gradient_checkpointing": "unsloth"}, "rtx4090", 2_413),  # torchtune's own figure
]


@pytest.mark.parametrize(("count", "changes", "card", "measured"), RATES)
def test_rates_are_near_what_was_measured(count, changes, card, measured):
    assert speed.rate(adapter(**changes), count, 2048, None, cards.find(card)) == pytest.approx(measured, rel=0.2)


def test_the_time_that_a_user_reported():
    """Seed 004: 200,000 rows, two epochs, recomputing, 30 hours on an RTX 3090 Ti; rows of 280 tokens."""
    asked = KOSPI.model_copy(update={"adapter": adapter(gradient_checkpointing="unsloth")})
    hours = speed.time(asked, cards.find("rtx3090ti"), None).training / 3600
    assert 30 / speed.DOUBT < hours < 30 * speed.DOUBT


# A user's own table for CodeLlama 7B, four bits on all but the A100: rows at once, length; and what is planned for it.
PRESETS = [
    ("rtx3060", 1, 1024, "qlora"),
    ("rtx4060ti", 2, 1536, "qlora"),
    ("rtx3090", 4, 2048, "qlora"),
    ("rtx4090", 4, 2048, "qlora"),
    ("a100-80", 8, 2048, "lora"),
]


@pytest.mark.parametrize(("card", "rows", "length", "method"), PRESETS)
def test_a_users_presets_fit_and_fit_finds_nothing_slower(card, rows, length, method):
    card = cards.find(card)
    given = adapter(method=method, batch_size=rows, accumulation=16 // rows, gradient_checkpointing="auto")
    assert fit.verdict(fit.needed(given, COUNT, length, None, card).total, card) == "fits"
    best = fit.fastest(given, COUNT, length, None, card)
    assert best.length == length and best.adapter.method == method
    assert best.rate >= speed.rate(given, COUNT, length, None, card)
    assert best.adapter.batch_size * best.adapter.accumulation == 16


def test_what_does_not_fit_becomes_a_qlora_then_shorter_then_nothing():
    given = adapter(method="lora", batch_size=4, accumulation=4)
    four = fit.fastest(given, COUNT, 2048, None, cards.find("rtx3060"))
    assert (four.adapter.method, four.length) == ("qlora", 2048)
    short = fit.fastest(given, COUNT, 8192, None, cards.find("rtx3060ti"))
    assert short.adapter.method == "qlora" and short.length < 8192
    assert fit.fastest(given, 72_706_203_648, 2048, None, cards.find("rtx3060")) is None


def test_no_more_than_a_cards_memory_is_ever_planned_for():
    for card in cards.known().values():
        for again in ("auto", "off"):
            given = adapter(batch_size=4, accumulation=4, gradient_checkpointing=again)
            if best := fit.fastest(given, COUNT, 2048, None, card):
                assert best.peak <= memory.FILL * card.bytes, card.name
                assert fit.verdict(best.peak, card) == "fits"


def test_fit_writes_params_with_their_comments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = recipe.expanded(ROOT / "recipes/qwen2.5-7b-kospi.yaml")
    Path("params.yaml").write_text(before)
    said = plan.refit(KOSPI, cards.find("h100"))
    assert said == [
        "adapter.batch_size: 2 → 4 (the fastest that fits)",
        "adapter.accumulation: 8 → 4 (the same rows an update)",
    ]
    after = Path("params.yaml").read_text()
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [
        ("  batch_size: 2           # rows at once; × accumulation = rows per update",
         "  batch_size: 4           # rows at once; × accumulation = rows per update"),
        ("  accumulation: 8", "  accumulation: 4"),
    ]  # fmt: skip
    with pytest.raises(Fault, match="nothing fits rtx3060"):
        plan.refit(KOSPI.model_copy(update={"base": KOSPI.base.model_copy(update={"parameters": 72_706_203_648})}),
                   cards.find("rtx3060"))  # fmt: skip
    assert Path("params.yaml").read_text() == after


def test_a_changed_value_stands_where_the_old_one_did():
    text = "a:\n  b: 1  # one\n  c: {d: 2}\nlong: 2048   # tokens\n"
    assert recipe.changed(text, {"a.b": 16, "long": 768}) == "a:\n  b: 16 # one\n  c: {d: 2}\nlong: 768    # tokens\n"


def test_what_plan_says_of_a_card_and_without_one():
    said = plan.summary(KOSPI, cards.find("h100"))
    for words in (
        "h100, 85.52 GB: fits: 22.10 GB at the peak",
        "5.82 GB weights (qlora), 0.32 GB adapter, 0.32 GB gradients, 0.16 GB optimiser, 14.09 GB activations",
        "111.4 million tokens (assumed: 280 a conversation, until the dataset is made)",
        "cost        $15.03 (RunPod, 2026-03)",
        "cheapest card that fits: rtx4090",
    ):
        assert words in said
    small = plan.summary(KOSPI, cards.find("rtx3060ti"))
    assert (
        "tight" in small and "what fits: adapter.batch_size: 1, adapter.accumulation: 16, max_seq_length: 768" in small
    )
    none = plan.summary(KOSPI)
    assert "on one GPU with 9.67 GB or more" in none and "make plan GPU=rtx3090" in none


def test_tokens_are_those_of_the_report_where_it_is_of_these_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "reports/dataset.json"
    report.parent.mkdir()
    sources = "{" + ", ".join(f'"{name}": {{}}' for name in KOSPI.dataset.mix) + "}"
    report.write_text(f'{{"train": 190000, "eval": 1000, "train_tokens": 77, "sources": {sources}}}')
    assert speed.tokens_of(KOSPI) == (77, "counted")
    for other in (
        report.read_text().replace("190000", "40"),
        "{}",
        "no JSON",
        report.read_text().replace("krx_won", "x"),
    ):
        report.write_text(other)
        assert speed.tokens_of(KOSPI)[1].startswith("assumed")


def test_recipes_are_planned_for_every_card_without_a_fault():
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        if path.name != "defaults.yaml":
            params = recipe.params(path)
            for card in cards.known().values():
                assert params.name in plan.summary(params, card)


def test_use_writes_params_where_there_were_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "recipes/qwen2.5-7b-kospi.yaml", tmp_path / "r.yaml")
    params, kept = recipe.use(Path("r.yaml"))
    assert kept is None and YAML(typ="safe").load(Path("params.yaml").read_text())["name"] == params.name
