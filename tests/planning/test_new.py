"""`ingot new`: from files, a base and a card to a sound recipe; nothing is guessed in silence or overwritten."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from ingot.host.cli import app
from ingot.planning import recipe
from tests.conftest import ROOT
from tests.hubserver import COMMIT, Hub, serving

WORDS = [
    "market",
    "bond",
    "share",
    "risk",
    "price",
    "value",
    "buy",
    "sell",
    "strong",
    "weak",
    "rate",
    "policy",
    "bank",
    "fund",
    "yield",
]
ROWS = 40


def said(least: int, most: int, draw: random.Random = random.Random(0)) -> str:  # noqa: B008 (one for all, on purpose)
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))


def alpaca(path: Path) -> None:
    rows = [
        {"instruction": said(5, 20), "input": said(1, 9) if n % 2 else "", "output": said(9, 60)} for n in range(ROWS)
    ]
    path.write_text(json.dumps(rows))


def sharegpt(path: Path) -> None:
    turns = [[{"from": "human", "value": said(4, 20)}, {"from": "gpt", "value": said(9, 50)}] for _ in range(ROWS)]
    path.write_text("".join(json.dumps({"conversations": each}) + "\n" for each in turns))


def openai(path: Path) -> None:
    rows = []
    for _ in range(ROWS):
        turns = [("system", "You are brief."), ("user", said(4, 20)), ("assistant", said(9, 50))]
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def completion(path: Path) -> None:
    path.write_text("".join(json.dumps({"prompt": said(4, 20), "completion": said(9, 50)}) + "\n" for _ in range(ROWS)))


def table(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question", "Answer", "Link"])
        writer.writerows([said(4, 20), said(9, 50), f"page {number}"] for number in range(ROWS))


def parquet(path: Path) -> None:
    columns = {"problem": [said(4, 20) for _ in range(ROWS)], "solution": [said(9, 50) for _ in range(ROWS)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


FILES = {
    "alpaca.json": (alpaca, "alpaca"),
    "sharegpt.jsonl": (sharegpt, "sharegpt"),
    "openai.jsonl": (openai, "openai"),
    "completion.jsonl": (completion, "prompt"),
    "faq.csv": (table, {"user": "Question", "assistant": "Answer"}),
    "math.parquet": (parquet, {"user": "problem", "assistant": "solution"}),
}


@pytest.fixture
def place(tmp_path) -> Path:
    """A checkout, as far as `ingot new` needs it."""
    for name in ("ingot", "llama.cpp", "platform.lock", "image.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "recipes").mkdir()
    shutil.copy(recipe.DEFAULTS, tmp_path / "recipes")
    return tmp_path


def new(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ingot", "new", *arguments]
    return subprocess.run(command, cwd=place, text=True, capture_output=True, env=os.environ | environment)


def files(place: Path) -> set[str]:
    """What is there besides the checkout and the scratch folder."""
    names = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    return {name for name in names if name.split("/")[0] not in ("ingot", "llama.cpp", ".cache")}


@pytest.mark.parametrize("file", FILES)
def test_one_command_makes_a_sound_recipe(place, qwen, file):
    write, columns = FILES[file]
    write(place / file)
    ran = new(place, file, "--base", str(qwen), "--gpu", "rtx3060", "--name", "my-bot")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    params = recipe.params(place / "recipes/my-bot.yaml")
    (name,) = params.dataset.mix
    assert params.dataset.mix[name] == params.dataset.mix[name].model_copy(update={"columns": read_columns(columns)})
    assert params.dataset.total_samples == ROWS and params.template == "chatml"
    assert (params.name, params.base.path, params.adapter.device) == ("my-bot", f"models/{qwen.name}", "cuda")
    assert (place / f"data/{file}").samefile(place / file), "linked, not copied"
    assert (place / f"models/{qwen.name}/config.json").is_file()
    text = (place / "recipes/my-bot.yaml").read_text()
    decided = [line for line in text.splitlines() if line.split(":")[0].strip() in DECIDED]
    assert len(decided) == len(DECIDED) and all("  # " in line for line in decided), "a reason beside each"
    assert recipe.expanded(place / "recipes/my-bot.yaml") == (place / "params.yaml").read_text()
    for words in ("40 rows; columns:", "⟦<|im_end|>⟧", "fits:", "tokens/s", "next: make platform"):
        assert words in ran.stdout
    assert "Traceback" not in ran.stderr and "quantitative analyst" not in text, "nothing of the demo"


DECIDED = ["template", "max_seq_length", "total_samples", "eval_share", "system", "method", "batch_size", "epochs"]


def read_columns(columns):
    from ingot.data.params import Part

    return Part(share=1.0, columns=columns).columns


def test_what_was_chosen_can_be_given(place, qwen):
    table(place / "faq.csv")
    options = ["--columns", "{user: Answer, assistant: Question}", "--system", "Say: it's 1 #2", "--length", "200"]
    options += ["--epochs", "5", "--method", "qlora", "--template", "chatml"]
    ran = new(place, "faq.csv", "--base", str(qwen), "--gpu", "rtx3090", "--name", "given", *options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    params = recipe.params(place / "recipes/given.yaml")
    assert params.dataset.mix["faq"].columns.user == "Answer" and params.dataset.system == "Say: it's 1 #2"
    assert (params.max_seq_length, params.adapter.epochs, params.adapter.method) == (200, 5, "qlora")
    assert (place / "recipes/given.yaml").read_text().count("# as asked") == 5


def test_several_files_share_by_size_and_one_column_that_speaks_against_rows_can_be_ignored(place, qwen):
    alpaca(place / "a b.json")
    (place / "pref.csv").write_text(
        "prompt,chosen,rejected\n" + "".join(f"what is {n}?,it is {n},I do not know {n}\n" for n in range(10))
    )
    both = ["'a b.json' pref.csv", "--base", str(qwen), "--gpu", "h100", "--name", "two"]
    refused = new(place, *both)
    assert refused.returncode == 1 and "preference data in 'rejected'" in refused.stderr and files(place) == {
        "a b.json", "pref.csv", "recipes/defaults.yaml", "platform.lock", "image.lock"
    }  # fmt: skip
    ran = new(place, *both, "--ignore", "rejected")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    mix = recipe.params(place / "recipes/two.yaml").dataset.mix
    assert {name: part.share for name, part in mix.items()} == {"a_b": 0.8, "pref": 0.2}
    assert mix["pref"].ignore == ["rejected"] and mix["a_b"].ignore is None


def test_on_a_cpu_a_small_base_trains_and_a_large_one_is_refused(place, qwen):
    openai(place / "chat.jsonl")
    nothing = {"PATH": "/nowhere"}  # no nvidia-smi
    ran = new(place, "chat.jsonl", "--base", str(qwen), "--name", "cpu", **nothing)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    params = recipe.params(place / "recipes/cpu.yaml")
    assert not params.uses_cuda and params.adapter.optimizer == "adamw_torch"
    assert "next: make repro" in ran.stdout, "the demo's platform.lock is a CPU's, too"


def test_a_preview_takes_no_base_and_writes_nothing(place):
    table(place / "faq.csv")
    ran = new(place, "faq.csv", "--show")
    assert ran.returncode == 0, ran.stderr
    assert "columns: {user: Question, assistant: Answer}" in ran.stdout and "column Link is not read" in ran.stdout
    assert ran.stdout.count("assistant  ") == 2
    assert files(place) == {"faq.csv", "recipes/defaults.yaml", "platform.lock", "image.lock"}


def test_a_preview_reads_the_head_of_a_large_file(place):
    row = json.dumps({"prompt": "word " * 400, "completion": "word " * 400}) + "\n"
    (place / "large.jsonl").write_text(row * 5000)
    ran = new(place, "large.jsonl", "--show")
    assert ran.returncode == 0 and "rows in its first 16 MB" in ran.stdout


# What is wrong, and what is said of it.
FAULTS = [
    (["none.jsonl"], "none.jsonl: no such file or folder\nhint: "),
    (["notes.txt"], ".txt is not read"),
    (["empty.jsonl"], "empty.jsonl is empty"),
    (["text.jsonl"], "its layout is not known; there are text"),
    (["chat.jsonl", "--gpu", "rtx999"], "GPU=rtx999: no such card; did you mean"),
    (["chat.jsonl", "--gpu", "h100", "--template", "chatmll"], "--template chatmll: not known; did you mean 'chatml'?"),
    (["chat.jsonl", "--gpu", "h100", "--template", "llama3"], "no control token <|start_header_id|>"),
    (["chat.jsonl", "--gpu", "h100", "--length", "512"], "--length 512: the base sees no more than 256 tokens\nhint: "),
    (["chat.jsonl", "--gpu", "h100", "--method", "dora"], "--method dora: not known"),
    (["chat.jsonl", "--gpu", "h100", "--columns", "{user: "], "is no YAML\nhint: "),
    (["chat.jsonl", "--gpu", "h100", "--columns", "{user: a}"], "--columns: columns"),
    (["chat.jsonl", "--gpu", "h100", "--columns", "{user: a, assistant: b}"], "no column 'a'; there are messages"),
    (["chat.jsonl", "--gpu", "h100", "--name", "1 2"], "--name 1 2: letters, digits"),
    (
        ["chat.jsonl", "--gpu", "h100", "--epochs", "0.0000001", "--name", "taken"],
        "recipes/taken.yaml is there already",
    ),
    (["chat.jsonl", "--gpu", "h100", "--base", "models"], "models: no such folder"),
    (["chat.jsonl", "--gpu", "h100", "--base", "other"], "other: no such folder; models/ holds no folder"),
    (["chat.jsonl", "--gpu", "h100", "--ignore", "rejectd"], "--ignore rejectd: no set has such a column"),
    (["chat.jsonl", "--gpu", "h100", "--length", "0"], "--length 0: 128 tokens are the least"),
    (["no/where.jsonl"], "no/where.jsonl: no such file or folder here, and of the hub: "),
    (["."], "DATA=.: name a file"),
    (["it's.jsonl"], "a quote is not closed\nhint: "),
]


@pytest.mark.parametrize(("arguments", "message"), FAULTS)
def test_what_is_wrong_is_named_and_nothing_is_written(place, qwen, arguments, message, monkeypatch):
    openai(place / "chat.jsonl")
    (place / "notes.txt").write_text("words\n")
    (place / "empty.jsonl").touch()
    (place / "text.jsonl").write_text('{"text": "words"}\n')
    (place / "recipes/taken.yaml").write_text("mine\n")
    before = files(place)
    monkeypatch.chdir(place)
    base = [] if "--base" in arguments else ["--base", str(qwen)]
    ran = CliRunner().invoke(app, ["new", *arguments, *base])  # in this process: imports take seconds
    assert ran.exit_code == 1 and message in ran.output, ran.output
    assert isinstance(ran.exception, SystemExit) and files(place) == before
    assert (place / "recipes/taken.yaml").read_text() == "mine\n"


def test_conversations_that_are_too_long_are_neither_trained_nor_planned(place, qwen):
    rows = [{"prompt": said(4, 9), "completion": said(9, 20) if n % 4 else said(400, 500)} for n in range(ROWS)]
    (place / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = new(place, "some.jsonl", "--base", str(qwen), "--gpu", "h100", "--name", "some")
    assert ran.returncode == 0, ran.stderr
    text = (place / "recipes/some.yaml").read_text()
    assert "covers 75.0% of 40 conversations; the base sees no more than 256" in text
    assert "all rows; about 30 of them can be trained on" in text
    refused = new(place, "some.jsonl", "--base", str(qwen), "--gpu", "h100", "--name", "short", "--length", "128")
    assert refused.returncode == 0, "three quarters are shorter"
    (place / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::4]))
    refused = new(place, "long.jsonl", "--base", str(qwen), "--gpu", "h100", "--name", "none")
    assert refused.returncode == 1 and "256 tokens: every conversation is longer" in refused.stderr


def test_again_with_the_same_files_and_with_few_rows(place, qwen):
    openai(place / "chat.jsonl")
    lines = (place / "chat.jsonl").read_text().splitlines(keepends=True)
    (place / "chat.jsonl").write_text("".join(lines[:5]))
    for name in ("one", "two"):
        ran = new(place, "chat.jsonl", "--base", str(qwen), "--gpu", "h100", "--name", name)
        assert ran.returncode == 0, ran.stderr
    assert recipe.params(place / "recipes/two.yaml").evaluation.prompts == 3, "no more than there are"
    twice = new(place, "chat.jsonl", "./chat.jsonl", "--base", str(qwen), "--gpu", "h100", "--name", "three")
    assert twice.returncode == 1 and "is named twice\nhint: " in twice.stderr
    (place / "chat.jsonl").write_text(lines[0])
    few = new(place, "chat.jsonl", "--base", str(qwen), "--gpu", "h100", "--name", "four")
    assert (few.returncode == 1 and "1 row" in few.stderr) or "is there already" in few.stderr


def test_folders_that_hold_what_cannot_be_copied(place, qwen):
    (place / "chats").mkdir()
    openai(place / "chats/a.jsonl")
    (place / "chats/b.jsonl").symlink_to("nowhere")
    for link in ("b.jsonl", "itself"):
        ran = new(place, "chats", "--base", str(qwen), "--gpu", "h100", "--name", "folder")
        assert ran.returncode == 1 and f"chats/{link}: " in ran.stderr and "Traceback" not in ran.stderr
        (place / "chats" / link).unlink()
        (place / "chats/itself").symlink_to(".", target_is_directory=True)
    (place / "chats/itself").unlink()
    assert new(place, "chats", "--base", str(qwen), "--gpu", "h100", "--name", "folder").returncode == 0
    assert (place / "data/chats/a.jsonl").is_file() and not list((place / "data").glob(".*"))


@pytest.mark.parametrize(
    "own",
    [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 20000000000 }}",
        "{{ nothing.at.all }}",
        "{% for",
    ],
)
def test_a_template_that_goes_round_or_fails_is_bounded_and_said(place, qwen, own):
    base = place / "models/base"
    shutil.copytree(qwen, base)
    (base / "chat_template.jinja").write_text(own)
    openai(place / "chat.jsonl")
    ran = new(place, "chat.jsonl", "--base", "models/base", "--gpu", "h100", "--name", "own")
    assert ran.returncode == 0, ran.stderr
    assert "control tokens of the base; its own chat template fails" in (place / "recipes/own.yaml").read_text()


def test_an_incomplete_base_is_refused(place, qwen):
    base = place / "base"
    shutil.copytree(qwen, base)
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-2.safetensors"}}')
    openai(place / "chat.jsonl")
    ran = new(place, "chat.jsonl", "--base", "base", "--gpu", "h100")
    assert ran.returncode == 1 and "model-2.safetensors" in ran.stderr and not (place / "models").exists()


def test_what_lies_at_the_place_already_is_not_overwritten(place, qwen):
    openai(place / "chat.jsonl")
    (place / "data").mkdir()
    (place / "data/chat.jsonl").write_text("mine\n")
    ran = new(place, "chat.jsonl", "--base", str(qwen), "--gpu", "h100")
    assert ran.returncode == 1 and "data/chat.jsonl is there already" in ran.stderr
    assert (place / "data/chat.jsonl").read_text() == "mine\n" and not (place / "models").exists()


def test_the_template_is_that_whose_words_the_bases_own_template_says(place, qwen):
    base = place / "models/base"
    shutil.copytree(qwen, base)
    own = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    (base / "chat_template.jinja").write_text(own)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    openai(place / "chat.jsonl")
    ran = new(place, "chat.jsonl", "--base", "models/base", "--gpu", "h100", "--name", "own")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    text = (place / "recipes/own.yaml").read_text()
    assert "template: chatml  # its own chat template renders a conversation in the same words" in text
    assert recipe.params(place / "recipes/own.yaml").base.license == "apache-2.0"


def test_a_base_and_a_dataset_of_the_hub(place, qwen):
    rows = "".join(json.dumps({"question": said(4, 9), "answer": said(9, 20)}) + "\n" for _ in range(ROWS)).encode()
    remote = Hub("acme/faq", "dataset", {"README.md": b"# Words\n", "train.jsonl": rows})
    with serving(remote) as address:
        ran = new(
            place,
            "acme/faq",
            "--base",
            str(qwen),
            "--gpu",
            "h100",
            "--name",
            "hub",
            HF_ENDPOINT=address,
            HF_HUB_OFFLINE="0",
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    source = recipe.params(place / "recipes/hub.yaml").raw.datasets["faq"]
    assert (source.repo, source.revision, source.split) == ("acme/faq", COMMIT, "train")
    model = Hub("acme/base", "model", {path.name: path.read_bytes() for path in qwen.iterdir()})
    openai(place / "chat.jsonl")
    with serving(model) as address:
        ran = new(
            place,
            "chat.jsonl",
            "--base",
            "acme/base",
            "--gpu",
            "h100",
            "--name",
            "model",
            HF_ENDPOINT=address,
            HF_HUB_OFFLINE="0",
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    base = recipe.params(place / "recipes/model.yaml").base
    assert (base.repo, base.revision) == ("acme/base", COMMIT) and "model.safetensors" not in model.served
    counted = sum(path.stat().st_size for path in qwen.glob("*.safetensors")) / 2
    assert base.parameters == pytest.approx(counted, rel=0.05)
