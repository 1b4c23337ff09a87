"""The memory training is planned with, against what an H200 was measured to need; what is advised when it lacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingot.planning import recipe
from ingot.training import memory, out_of_memory
from ingot.training.params import Adapter

ROOT = Path(__file__).parents[2]
KOSPI = recipe.params(ROOT / "recipes/qwen2.5-7b-kospi.yaml")
COUNT, LENGTH = KOSPI.base.parameters, 2048
# Peaks in GB, PyTorch's, rank 32 on all seven layers, packed: benchmarks/memory_grid.py on H200s, 28 Nov 2026, but for
# the one of 8 rows (the stage on an H100) and 3b's (shape_road.py). Of each: size, engine, method,
# gradient_checkpointing, rows, their tokens.
SIZES = {"0.5b": 494_032_768, "3b": 3_085_938_688, "7b": 7_615_616_512}
MEASURED = [
    ("7b", "unsloth", "qlora", "off", 2, 2048, 21.1),
    ("7b", "unsloth", "qlora", "off", 4, 2048, 35.4),
    ("7b", "unsloth", "qlora", "off", 8, 2048, 63.6),
    ("7b", "unsloth", "qlora", "on", 4, 2048, 9.9),
    ("7b", "unsloth", "qlora", "unsloth", 2, 2048, 7.6),
    ("7b", "unsloth", "qlora", "unsloth", 8, 2048, 10.2),
    ("7b", "unsloth", "lora", "off", 2, 2048, 32.3),
    ("7b", "unsloth", "lora", "unsloth", 4, 2048, 18.0),
    ("7b", "peft", "qlora", "off", 2, 2048, 49.8),
    ("7b", "peft", "qlora", "on", 4, 2048, 16.5),
    ("7b", "peft", "lora", "on", 2, 1024, 20.2),
    ("3b", "unsloth", "qlora", "off", 2, 2048, 14.1),
    ("0.5b", "unsloth", "qlora", "off", 4, 2048, 7.5),
    ("0.5b", "unsloth", "qlora", "on", 4, 2048, 1.8),
    ("0.5b", "unsloth", "qlora", "unsloth", 2, 2048, 1.4),
    ("0.5b", "unsloth", "qlora", "unsloth", 8, 2048, 1.7),
    ("0.5b", "unsloth", "lora", "off", 2, 2048, 5.3),
    ("0.5b", "unsloth", "lora", "unsloth", 4, 2048, 2.0),
    ("0.5b", "peft", "qlora", "off", 2, 2048, 10.5),
    ("0.5b", "peft", "qlora", "on", 4, 2048, 2.9),
    ("0.5b", "peft", "lora", "on", 2, 1024, 2.3),
]


def adapter(**changes) -> Adapter:
    return Adapter(**KOSPI.adapter.model_dump() | changes)


def total(**changes) -> int:
    return memory.estimate(adapter(**changes), COUNT, LENGTH, None).total


@pytest.mark.parametrize(("size", "engine", "method", "checkpointing", "rows", "length", "measured"), MEASURED)
def test_estimates_are_near_what_was_measured(size, engine, method, checkpointing, rows, length, measured):
    given = adapter(engine=engine, method=method, gradient_checkpointing=checkpointing, batch_size=rows)
    estimate = memory.estimate(given, SIZES[size], length, None).total / 1e9
    assert 0.97 * measured < estimate < 1.1 * measured


def test_a_config_says_the_same_as_the_family_of_its_size():
    config = {
        "hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18_944, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False,
    }  # fmt: skip
    assert memory.estimate(adapter(), COUNT, LENGTH, config) == memory.estimate(adapter(), COUNT, LENGTH, None)
    assert memory.Shape.of(config | {"head_dim": 256}).query == 7168, (
        "as Qwen3, whose heads are not hidden / heads wide"
    )


def test_what_each_method_trains():
    count = {method: memory.trained(adapter(method=method, packing=False), COUNT, None) for method in every_method()}
    assert count["qlora"] == count["lora"] == 80_740_352, "as PEFT counts them"
    assert count["full"] == COUNT
    assert max(count["prompt"], count["prefix"], count["ia3"]) < 2_000_000
    assert total(method="full", gradient_checkpointing="on") > COUNT * (4 + 4 + 2)


def every_method() -> tuple[str, ...]:
    return Adapter.model_fields["method"].annotation.__args__


def test_states_that_page_and_32_bit_states():
    small, paged, large = (
        memory.estimate(adapter(optimizer=name), COUNT, LENGTH, None).optimizer
        for name in ("adamw_8bit", "paged_adamw_8bit", "adamw_torch")
    )
    assert (paged, large) == (0, small * 4)


def test_auto_recomputes_where_a_card_would_be_too_full():
    def decides(gigabytes: float, rows: int) -> bool:
        return memory.recompute(adapter(batch_size=rows), COUNT, LENGTH, None, int(gigabytes * 1e9))

    assert decides(24, 2) and not decides(80, 2)
    assert decides(64, 8) and not decides(141, 8)


def test_advice_is_ordered_cumulative_and_ends_where_it_fits():
    asked = adapter(method="lora", gradient_checkpointing="off", batch_size=12, accumulation=2)

    def advised(gigabytes: float) -> list[str]:
        return out_of_memory.advice(asked, COUNT, LENGTH, None, int(gigabytes * 1e9)).splitlines()[1:]

    assert [line.split(":")[0].strip() for line in advised(80)] == ["adapter.gradient_checkpointing"]
    keys = ["adapter.gradient_checkpointing", "adapter.batch_size", "adapter.method"]
    assert [line.split(":")[0].strip() for line in advised(12)] == keys
    assert "adapter.batch_size: 1 with accumulation: 24 (the same update)" in advised(12)[1]
    totals = [float(re.search(r"([\d.]+) GB$", line)[1]) for line in advised(12)]
    assert totals == sorted(totals, reverse=True) and totals[-1] <= 12 * memory.FILL < totals[-2]
    assert advised(4)[-1].strip().startswith("still too much")


def test_a_shorter_sequence_is_advised_where_it_helps():
    long = adapter(engine="peft", gradient_checkpointing="on", batch_size=1)
    said = out_of_memory.advice(long, COUNT, 32_768, None, int(24e9))
    assert "max_seq_length: 8192 (longer conversations are not trained on)" in said


def test_two_cards_hold_together_what_one_cannot():
    big, short = 72_706_203_648, 512
    whole = adapter(engine="auto", gpus=2, accumulation=16, batch_size=1, gradient_checkpointing="on")
    shared = whole.model_copy(update={"shard": True, "optimizer": "adamw_torch"})
    alone, each = (memory.estimate(one, big, short, None) for one in (whole, shared))
    assert alone.weights > 36e9 and each.weights < 0.75 * alone.weights, "half, and what comes and goes"
    said = out_of_memory.advice(whole, big, short, None, int(48e9)).splitlines()
    assert said[-1].startswith("  adapter.shard: true with optimizer: adamw_torch and keep: last")
    assert out_of_memory.advice(shared, big, short, None, int(8e9)).endswith("or more of them with adapter.shard: true")
