"""Training: bits that depend on the inputs alone, packed samples that cannot see each other, resume to the bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch

from ingot.chat import encoding, token_files
from ingot.console.progress import StageError
from ingot.exact.files import sha256
from tests.conftest import MICRO, ROOT, edited, tokenise, write_jsonl

pytestmark = pytest.mark.proof

# What another machine would be like, said through the environment: no AVX2 kernels, other locale, zone, hash seed.
OTHER_MACHINE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "PYTHONHASHSEED": "321",
    "TZ": "Asia/Seoul",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_DYNAMIC": "TRUE",
}
QUESTIONS = ["What is a bond?", "코스피가 뭔가요?", "What is inflation?", "Name a risk of options.", "금리가 뭔가요?"]
ANSWERS = [
    "A loan that trades.",
    "한국의 주가지수입니다.",
    "Prices rising over time.",
    "They can expire.",
    "돈의 값입니다.",
]


def workplace(folder: Path, base: Path, **changes) -> Path:
    """A folder in which `python -m stages.adapter` runs: params, base and a small dataset."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    settings = MICRO | {"adapter.save_steps": 1000, "adapter.epochs": 2, "adapter.batch_size": 5} | changes
    edited(ROOT / "params.yaml", folder / "params.yaml", settings)
    for name in ("stages", "ingot", "image.lock", "requirements"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "ingot.training.platform"], cwd=folder, check=True)
    (folder / "build/dataset").mkdir(parents=True)
    (folder / "build/base").symlink_to(base)
    pairs = list(zip(QUESTIONS, ANSWERS, strict=True))
    write_jsonl(folder / "build/dataset/train.jsonl", [conversation(*pair) for pair in pairs * 2])
    # Another question's answer: the better training is known by heart, the worse is this foretold.
    write_jsonl(folder / "build/dataset/eval.jsonl", [conversation(QUESTIONS[0], ANSWERS[2])])
    (folder / "build/dataset/chat_template.jinja").write_text(encoding.jinja("chatml"))
    tokenise(folder / "build/dataset", base)
    return folder


def workplace_of_a_gpu(folder: Path, base: Path, **changes) -> Path:
    """A workplace whose params ask for a GPU where there is none; its platform.lock is of this CPU."""
    workplace(folder, base)
    params = folder / "params.yaml"
    edited(params, params, {key.replace("__", "."): value for key, value in changes.items()})
    return folder


def curve(folder: Path, name: str) -> list[float]:
    """What was plotted of a figure, point by point."""
    lines = (folder / f"reports/adapter/plots/metrics/{name}.tsv").read_text().splitlines()[1:]
    return [float(line.split("\t")[1]) for line in lines]


def make_diverge(folder: Path, base: Path) -> None:
    """Give a workplace a base of its own, whose every output is infinite."""
    from safetensors.torch import load_file, save_file

    (folder / "build/base").unlink()
    shutil.copytree(base, folder / "build/base")
    weights = load_file(folder / "build/base/model.safetensors")
    weights["model.norm.weight"].fill_(float("inf"))
    save_file(weights, folder / "build/base/model.safetensors", metadata={"format": "pt"})


def conversation(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


UNPINNED = "import runpy, sys, types; import ingot.exact.pins as d; d.pin = lambda: None; "
UNPINNED += "sys.argv = ['stages.adapter']; runpy.run_module('stages.adapter', run_name='__main__')"


def train(folder: Path, pinned: bool = True, **environment: str) -> str:
    """Train in a fresh process; returns the adapter's hash."""
    command = [sys.executable, *(["-m", "stages.adapter"] if pinned else ["-c", UNPINNED])]
    bare = {key: value for key, value in os.environ.items() if key not in OTHER_MACHINE}
    result = subprocess.run(
        command, cwd=folder, env=bare | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert result.returncode == 0, result.stdout
    return sha256(folder / "build/adapter/adapter_model.safetensors")


def test_the_pins_make_the_bits_and_without_them_they_move(base, tmp_path):
    folder = workplace(tmp_path, base)
    here = train(folder, OMP_NUM_THREADS="2")
    config = (folder / "build/adapter/adapter_config.json").read_bytes()
    loss = (folder / "reports/adapter/plots/metrics/loss.tsv").read_bytes()
    assert train(folder, **OTHER_MACHINE) == here
    assert (folder / "build/adapter/adapter_config.json").read_bytes() == config
    assert (folder / "reports/adapter/plots/metrics/loss.tsv").read_bytes() == loss
    assert train(folder, pinned=False, **OTHER_MACHINE) != here


def test_the_folder_holds_the_canonical_files_only(base, tmp_path):
    folder = workplace(tmp_path, base)
    train(folder)
    names = {path.name for path in (folder / "build/adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    config = json.loads((folder / "build/adapter/adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"]) and len(config["target_modules"]) == 7
    assert not list((folder / ".cache/checkpoints").iterdir()), "checkpoints go when the stage succeeds"


def test_killed_and_resumed_equals_uninterrupted(base, tmp_path):
    killed_and_resumed_equals_uninterrupted(base, tmp_path)


def killed_and_resumed_equals_uninterrupted(base, tmp_path, **changes):
    changes |= {"adapter__epochs": 6, "adapter__save_steps": 2}
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = train(workplace(tmp_path / "whole", base, **changes))
    folder = workplace(tmp_path / "broken", base, **changes)
    for number, kill in enumerate((signal.SIGTERM, signal.SIGKILL)):
        victim = subprocess.Popen(
            [sys.executable, "-m", "stages.adapter"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while steps_kept(folder) <= 2 * number:
            assert victim.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)
        victim.send_signal(kill)
        assert victim.wait() == (143 if kill == signal.SIGTERM else -signal.SIGKILL)
    assert not (folder / "build/adapter").exists(), "nothing half-written"
    # A checkpoint that was being written when the process died must not be gone on from.
    torn = next((folder / ".cache/checkpoints").iterdir()) / "checkpoint-99"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    assert train(folder) == whole
    curves = "reports/adapter/plots/metrics"
    for curve in (tmp_path / "whole" / curves).iterdir():
        assert (folder / curves / curve.name).read_text() == curve.read_text(), "the whole story is told"
    assert not list((folder / "build").glob(".adapter*")), "what the killed run left beside is gone"


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before(base, tmp_path):
    """As a power loss leaves a file that has not reached the disk; and the result is that of a run never stopped."""
    changes = {"adapter__epochs": 5, "adapter__save_steps": 2, "adapter__save_total_limit": 2}
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    folder = workplace(tmp_path / "broken", base, **changes)
    victim = subprocess.Popen(
        [sys.executable, "-m", "stages.adapter"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while steps_kept(folder) < 4:
        assert victim.poll() is None
        time.sleep(0.02)
    victim.kill()
    victim.wait()
    step = steps_kept(folder)
    os.truncate(next((folder / ".cache/checkpoints").iterdir()) / f"checkpoint-{step}/adapter_model.safetensors", 1000)
    result = subprocess.run([sys.executable, "-m", "stages.adapter"], cwd=folder, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"checkpoint-{step} is damaged, and is not gone on from: adapter_model.safetensors is not" in result.stdout
    assert f"going on from step {step - 2} of a run that was stopped" in result.stdout
    resumed = sha256(folder / "build/adapter/adapter_model.safetensors")
    assert train(workplace(tmp_path / "whole", base, **changes)) == resumed


@pytest.mark.parametrize(
    "harm",
    [
        lambda made: os.truncate(made / "weights", 50),
        lambda made: (made / "weights").write_bytes(bytes(100)),
        lambda made: (made / "weights").write_bytes(b"\1" + (made / "weights").read_bytes()[1:]),
        lambda made: (made / "weights").unlink(),
        lambda made: (made / "complete").write_bytes(b""),
        lambda made: (made / "complete").write_text("[]"),
        lambda made: (made / "complete").write_text("{}"),
        lambda made: (made / "trainer_state.json").write_text("{"),
    ],
    ids=[
        "truncated",
        "zeros",
        "a bit",
        "gone",
        "an empty mark",
        "a mark that is none",
        "a mark of nothing",
        "a torn state",
    ],
)
def test_whatever_is_damaged_in_a_checkpoint_it_is_not_gone_on_from(tmp_path, harm):
    from ingot.training import checkpoints

    for step in (2, 4):
        made = tmp_path / f"checkpoint-{step}"
        made.mkdir()
        (made / "weights").write_bytes(b"\0" + os.urandom(99))
        (made / "trainer_state.json").write_text('{"best_model_checkpoint": null}')
        checkpoints._mark(made)
    assert checkpoints.last_complete(tmp_path) == str(tmp_path / "checkpoint-4")
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-4.bak")  # a user's own
    harm(tmp_path / "checkpoint-4")
    assert checkpoints.last_complete(tmp_path) == str(tmp_path / "checkpoint-2")
    assert not (tmp_path / "checkpoint-4").exists() and (tmp_path / "checkpoint-4.bak/weights").exists()


def test_a_checkpoint_is_damaged_where_the_best_one_is_that_it_refers_to(tmp_path):
    from ingot.training import checkpoints

    for step, best in ((2, None), (4, "checkpoint-4"), (6, "checkpoint-4")):
        made = tmp_path / f"checkpoint-{step}"
        (made / "sub").mkdir(parents=True)
        (made / "sub/weights").write_bytes(os.urandom(100))
        state = {"best_model_checkpoint": best and f"elsewhere/{best}"}
        (made / "trainer_state.json").write_text(json.dumps(state))
        checkpoints._mark(made)
        assert checkpoints.damage(made) is None
    os.truncate(tmp_path / "checkpoint-4/sub/weights", 99)
    assert "checkpoint-4, is damaged: sub/weights is not what was written" in checkpoints.damage(
        tmp_path / "checkpoint-6"
    )
    assert checkpoints.last_complete(tmp_path) == str(tmp_path / "checkpoint-2")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    (tmp_path / "checkpoint-2/trainer_state.json").write_text("[" * 9)
    assert checkpoints.last_complete(tmp_path) is None


def steps_kept(folder: Path) -> int:
    """The step of the newest whole checkpoint."""
    found = (folder / ".cache/checkpoints").glob("*/checkpoint-*/complete")
    return max((int(path.parent.name.split("-")[1]) for path in found), default=0)


def test_a_loss_that_was_good_and_is_worse_than_chance_ends_the_training(base, tmp_path, monkeypatch):
    """As Gemma 3 under Unsloth did for 933 updates on an H100: 1.98, 2.9, 15.1, …; every gradient was finite."""
    from types import SimpleNamespace

    from ingot.params.core import load
    from ingot.training.job import Job
    from ingot.training.params import Adapter
    from ingot.training.watch import Batches, Watch

    monkeypatch.chdir(workplace(tmp_path, base))
    job = Job(
        load("adapter", Adapter), 42, 160, base, Path("build/dataset/train.arrow"), None, tmp_path, tmp_path / "live"
    )
    watch = Watch(job, Batches(torch.nn.Linear(1, 1), job))
    watch.counted = (0, 0.0)
    for step, loss in enumerate([1.98, 2.9, 7.8], 1):
        watch.on_log(None, SimpleNamespace(global_step=step, max_steps=9), None, {"loss": loss})
    with pytest.raises(
        StageError, match=r"loss is 15.1 at step 4: training has diverged \(guessing at random gives 7.9\)"
    ):
        watch.on_log(None, SimpleNamespace(global_step=4, max_steps=9), None, {"loss": 15.1})


def test_a_run_that_goes_on_elsewhere_reads_the_tokens_there(tmp_path):
    """Stopped in a container, or in a folder that was moved since: the link of then leads nowhere."""
    from ingot.training.trainer import _dataset

    for number in (1, 2):
        place = tmp_path / str(number)
        place.mkdir()
        with token_files.Writer(place / "train.arrow") as file:
            file.add("x", numpy.full(3, number), [(1, 3)])
        made = _dataset(place / "train.arrow", tmp_path / "checkpoints")
        assert made[:] == {"input_ids": [[number] * 3], "labels": [[-100, number, number]]}
        shutil.rmtree(place)


def test_changed_inputs_never_go_on_from_old_checkpoints(base, tmp_path, monkeypatch):
    from ingot.params.core import load
    from ingot.training.params import Adapter
    from stages import adapter as stage

    monkeypatch.chdir(workplace(tmp_path, base))
    params = load("adapter", Adapter)
    keys = {stage.key(params, 42, 160), stage.key(params, 43, 160), stage.key(params, 42, 161)}
    keys.add(stage.key(params.model_copy(update={"r": 16}), 42, 160))
    with open("build/dataset/train.jsonl", "a") as file:
        file.write("\n")
    keys.add(stage.key(params, 42, 160))
    assert len(keys) == 5


def test_divergence_stops_the_stage_and_is_explained(base, tmp_path):
    folder = workplace(tmp_path, base, adapter__learning_rate=1.0, adapter__warmup=0.0, adapter__epochs=40)
    make_diverge(folder, base)
    result = subprocess.run([sys.executable, "-m", "stages.adapter"], cwd=folder, text=True, capture_output=True)
    assert result.returncode == 1
    assert "at step 1: training has diverged" in result.stdout and "Traceback" not in result.stderr
    named = re.search(r"rows ([\d, ]+) of build/dataset/train.jsonl", result.stdout)
    assert named and {*map(int, named[1].split(", "))} <= {6, 7, 8, 9, 10}, "rows of the update; of equal ones the last"
    assert not (folder / "build/adapter").exists()


def test_an_unknown_target_module_lists_the_layers(base, tmp_path):
    folder = workplace(tmp_path, base, adapter__target_modules=["q_proj", "query", "embed_tokens"])
    result = subprocess.run([sys.executable, "-m", "stages.adapter"], cwd=folder, text=True, capture_output=True)
    assert result.returncode == 1
    assert "adapter.target_modules: query, embed_tokens: no linear layer of the base" in result.stdout


def test_packed_samples_cannot_see_each_other(base, tokenizer):
    """A packed sequence as the trainer's own collator makes it: each sample's logits are those it has alone."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.data_utils import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    texts = ("Why?", "한국 주식시장은 어디에 있나요?", "Buy low, sell high, always.")
    samples = {len(ids): ids for ids in (tokenizer(text)["input_ids"] for text in texts)}
    assert len(samples) == 3, "told apart by their lengths"
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in samples.values()])
    packed = pack_dataset(rows, 64, "bfd")
    assert len(packed) == 1
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(list(packed))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa").eval()
    ids, positions, place = batch["input_ids"], batch["position_ids"], 0
    with torch.no_grad():  # without a cache, as in training
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
        blind = model(input_ids=ids, use_cache=False).logits[0]
        for length in packed[0]["seq_lengths"]:
            alone = model(input_ids=torch.tensor([samples[length]])).logits[0]
            here = slice(place, place + length)
            assert torch.allclose(together[here], alone, atol=1e-4)
            assert not place or not torch.allclose(blind[here], alone, atol=1e-1), "a leak would show"
            place += length


def test_packing_trains_to_the_same_bits_each_time(base, tmp_path):
    folder = workplace(tmp_path, base, adapter__packing=True, adapter__batch_size=1, max_seq_length=64)
    assert train(folder) == train(folder, OMP_NUM_THREADS="1")
