"""Out of a GPU's memory: the next smaller setting of the same update, and `make repro RETRY=smaller`."""

from __future__ import annotations

import re

import pytest

from ingot.params.core import read
from ingot.planning import recipe
from ingot.training import memory, out_of_memory
from ingot.training.params import Adapter
from tests.conftest import ROOT

SEVEN, LENGTH = 7_615_616_512, 2048


def adapter(**changes) -> Adapter:
    values = read(ROOT / "recipes/qwen2.5-7b-kospi.yaml")["adapter"]
    return Adapter(**read(recipe.DEFAULTS)["adapter"] | values | {"gradient_checkpointing": "off"} | changes)


def peak(one: Adapter) -> int:
    return memory.estimate(one, SEVEN, LENGTH, None).total


def test_each_next_setting_makes_the_same_update_with_a_fifth_less_until_there_is_none():
    one, seen = adapter(batch_size=8, accumulation=6), []
    while changes := out_of_memory.smaller(one, SEVEN, LENGTH, None):
        less = one.model_copy(update={key.removeprefix("adapter."): value for key, value in changes.items()})
        assert less.batch_size * less.accumulation == 48 and peak(less) <= 0.8 * peak(one)
        one = less
        seen.append((one.batch_size, one.gradient_checkpointing))
    assert seen[0] == (6, "off") and seen[-1] == (1, "unsloth") and len(seen) < 12


def test_what_recomputes_already_goes_on_recomputing_and_gpus_share_evenly():
    one = adapter(engine="auto", gpus=2, batch_size=6, accumulation=4, gradient_checkpointing="on")
    assert out_of_memory.smaller(one, SEVEN, LENGTH, None) == {"adapter.batch_size": 3, "adapter.accumulation": 8}
    assert out_of_memory.smaller(adapter(batch_size=1, gradient_checkpointing="unsloth"), SEVEN, LENGTH, None) == {}


def test_params_say_what_was_changed_and_keep_all_else(tmp_path):
    path = tmp_path / "params.yaml"
    before = (ROOT / "params.yaml").read_text()
    path.write_text(before)
    line = recipe.record({"adapter.batch_size": 2, "adapter.accumulation": 8}, "make repro RETRY=smaller", path)
    after = path.read_text()
    assert line.partition(": ")[2] in after and "RETRY=smaller" in line
    kept = [one for one in before.splitlines() if not re.match(r"  (batch_size|accumulation):", one)]
    assert [one for one in after.splitlines() if one in kept] == kept
    assert read(path)["adapter"]["batch_size"] == 2 and read(path)["adapter"]["accumulation"] == 8


@pytest.mark.proof
def test_plumbing_a_run_that_is_out_of_memory_begins_again_with_less(clone):
    """The kernel is replaced: four rows at once are too much, whatever the machine has."""
    there = clone()
    there.params(adapter__batch_size=4, adapter__accumulation=1, adapter__gradient_checkpointing="off")
    for file, old, new in (
        ("watch", "        if model.training:\n", "        if given['input_ids'].shape[0] > 2:\n"
         "            raise torch.OutOfMemoryError\n        if model.training:\n"),
        ("job", "        import torch\n\n        whole", "        return 1_000_000_000\n        whole"),
    ):  # fmt: skip
        path = there.folder / f"ingot/training/{file}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    failed = there.sh("python", "-m", "ingot", "repro", "adapter", check=False)
    assert failed.returncode and "make repro RETRY=smaller writes adapter.batch_size: " in failed.stdout
    assert not (there.folder / "build/adapter").exists()
    done = there.sh("python", "-m", "ingot", "repro", "adapter", "--retry", "smaller")
    now = read(there.folder / "params.yaml")["adapter"]
    assert now["batch_size"] <= 2 and now["batch_size"] * now["accumulation"] == 4
    assert "out of memory: params.yaml: adapter." in done.stdout and "starting again" in done.stdout
    assert (there.folder / "build/adapter/adapter_model.safetensors").is_file()
    assert "RETRY=smaller" in (there.folder / "params.yaml").read_text().split("\nname:")[0]
    unknown = there.sh("python", "-m", "ingot", "repro", "--retry", "bigger", check=False)
    assert unknown.returncode == 1 and "RETRY=bigger: unknown" in unknown.stdout
