"""Columns that no mapping reads: what changes a row's meaning is refused by name, the rest is listed with a sample."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from ingot.console.progress import StageError
from ingot.data import layouts, unread
from ingot.data.cleaning import Cleaner, Unfit, placeholder
from ingot.sources import raw_files
from ingot.sources.params import Source
from tests.test_dataset import run, unlike  # noqa: F401 (a fixture)
from tests.test_layouts import CLEAN, SPECIAL, part, read

TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


def told(rows, mapping="prompt", fail=False, left=None, **more):
    return unread.telling(rows, "set", part(mapping, **more), left or {}, fail)


def pair(**more) -> dict:
    return {"prompt": "u", "completion": "a"} | more


@pytest.mark.parametrize(
    ("good", "bad", "name"),
    [
        ({"label": True}, {"label": False}, "KTO"),
        ({"label": 1}, {"label": 0}, "KTO"),
        ({"label": 1}, {"label": -1}, "KTO"),
        ({"label": "true"}, {"label": "False"}, "KTO"),
        ({"Label": "chosen"}, {"Label": "rejected"}, "KTO"),
        ({"kto_tag": True}, {"kto_tag": False}, "KTO"),
        ({"kto_tag": "true"}, {"kto_tag": False}, "KTO"),
        ({"is_correct": True}, {"is_correct": False}, "KTO"),
        ({"label": None}, {"label": False}, "KTO"),
        ({"weight": 1}, {"weight": 0}, "not to train on"),
        ({"train": True}, {"train": False}, "not to train on"),
        ({"rejected": ""}, {"rejected": "b"}, "preference data"),
        ({"rejected": []}, {"rejected": TURNS}, "preference data"),
        ({"rejected_response": None}, {"rejected_response": "b"}, "preference data"),
        ({"non_preferred_output": None}, {"non_preferred_output": TURNS[1:]}, "preference data"),
        ({"winner": None}, {"winner": "model_b"}, "preference data"),
        ({"images": []}, {"images": ["a.png"]}, "pictures or sound"),
        ({"image": None}, {"image": "a.png"}, "pictures or sound"),
        ({"audio": None}, {"audio": {"path": "a.wav"}}, "pictures or sound"),
        ({"tools": None}, {"tools": [{"type": "function"}]}, "tools"),
        ({"tools": "[]"}, {"tools": '[{"name": "f"}]'}, "tools"),
        ({"history": []}, {"history": [["q", "a"]]}, "earlier turns"),
    ],
)
def test_rows_that_are_not_what_they_seem_are_refused_until_that_is_meant(tmp_path, good, bad, name):
    rows = read(tmp_path, [pair(**good), pair(**bad), pair(**good)])
    (column,) = bad
    (found,) = told(rows)
    assert found.column == column and found.rows.tolist() == [False, True, False] and name in found.reason
    with pytest.raises(StageError, match=r"1 of 3 rows have .*the first is row 1") as error:
        told(rows, fail=True)
    assert "hint: " in str(error.value) and f"dataset.mix.set.ignore: [{column}]" in str(error.value)
    assert not told(rows, fail=True, ignore=[column])


def test_a_set_of_nothing_else_is_refused_whatever_unfit_says(tmp_path):
    rows = read(tmp_path, [pair(rejected="b")] * 3)
    with pytest.raises(StageError, match=r"3 of 3 rows have preference data in 'rejected'"):
        told(rows)


@pytest.mark.parametrize(
    "more",
    [
        [{"label": 0}, {"label": 2}],
        [{"weight": 0.5}, {"weight": 71.0}],
        [{"label": "positive"}, {"label": "negative"}],
        [{"label": True}, {"label": True}],
        [{"label": 0.25}, {"label": 0.75}],
        [{"score_rejected": 1.5}, {"score_rejected": 2.5}],
        [{"images": []}, {"images": None}],
        [{"tools": "null"}, {"tools": ""}],
        [{"id": 0}, {"id": 1}],
    ],
)
def test_columns_that_say_nothing_against_a_row(tmp_path, more):
    assert told(read(tmp_path, [pair(**one) for one in more]), fail=True) == []


def test_a_mapped_column_speaks_for_itself(tmp_path):
    rows = read(tmp_path, [{"prompt": "u", "label": "true"}, {"prompt": "u", "label": "false"}])
    assert told(rows, {"user": "prompt", "assistant": "label"}, fail=True) == []


def test_what_is_ignored_has_to_be_there_and_not_mapped(tmp_path):
    with pytest.raises(ValidationError, match=r"`ignore` names 'prompt', which `columns` reads"):
        part("prompt", ignore=["prompt"])
    with pytest.raises(
        StageError, match=r"dataset.mix.set.ignore: no column 'lable'; there are prompt, completion, label"
    ):
        told(read(tmp_path, [pair(label=True)]), ignore=["lable"])


def test_pictures_of_parquet_are_not_decoded(tmp_path):
    from datasets import Features, Image, Value

    (tmp_path / "set").mkdir()
    features = Features(prompt=Value("string"), completion=Value("string"), image=Image())
    table = pyarrow.Table.from_pylist(
        [pair(image={"bytes": b"no picture", "path": None})], schema=features.arrow_schema
    )
    parquet.write_table(table, tmp_path / "set/rows.parquet")
    rows = raw_files.open_rows(tmp_path / "set", "set", Source(path="data/x"))
    with pytest.raises(StageError, match=r"1 of 1 rows have pictures or sound in 'image'.*10 bytes"):
        told(rows)
    assert layouts.suggestion(rows) == "prompt"


def test_a_column_that_cannot_be_read_is_refused_all_the_same_where_it_means_something(tmp_path):
    (tmp_path / "set").mkdir()
    table = pyarrow.table(
        {
            "prompt": ["u"],
            "completion": ["a"],
            "tools": pyarrow.array([[("f", "x")]], pyarrow.map_(pyarrow.string(), pyarrow.string())),
        }
    )
    parquet.write_table(table, tmp_path / "set/rows.parquet")
    left: dict[str, str] = {}
    wanted = ["prompt", "completion"]
    rows = raw_files.open_rows(tmp_path / "set", "set", Source(path="data/x"), wanted=wanted, left=left)
    assert [*left] == ["tools"]
    with pytest.raises(StageError, match=r"have tools in 'tools'"):
        told(rows, left=left)
    assert told(rows, left=left, ignore=["tools"]) == []
    (line,) = unread.lines(unread.listed(rows, "set", part("prompt"), left), {"set": 1})
    assert line.startswith("set: column tools is not read: it is of the type map<")


def test_each_unread_column_is_listed_with_a_sample(tmp_path):
    rows = read(tmp_path, [pair(id=7, note=" ", more=None), pair(id=8, note="x\x1b" + "y" * 500, more={"k": [1]})])
    listed = unread.listed(rows, "set", part("prompt"), {})
    assert [(one["column"], one["rows"]) for one in listed] == [("id", 2), ("note", 1), ("more", 1)]
    first, note, more = unread.lines(listed, {"set": 2})
    assert first == "set: column id is not read: 2 of 2 rows hold something, such as 7"
    assert note.isprintable() and len(note) < 200 and '{"k": [1]}' in more


def test_the_stage_lists_refuses_and_counts(run, capsys):  # noqa: F811
    rows = unlike(20)
    folder = run(rows)
    assert "unread" not in json.loads((folder / "reports/dataset.json").read_text())
    file = folder / "build/raw/set/rows.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    made = [line | {"label": number % 4 != 0, "note": "n"} for number, line in enumerate(lines)]
    file.write_text("".join(json.dumps(line) + "\n" for line in made))
    from stages import dataset as stage

    with pytest.raises(StageError, match=r"5 of 20 rows have a 'label' that says the answer is not wanted"):
        stage.main()
    report = json.loads((folder / "reports/dataset.json").read_text())
    assert "5 of 20 rows" in report["failed"] and [one["column"] for one in report["unread"]] == ["label", "note"]
    assert "not wanted" in (folder / "reports/dataset.html").read_text()
    params = json.loads(Path("params.yaml").read_text())
    params["dataset"] |= {"unfit": "drop", "short": "all"}
    Path("params.yaml").write_text(json.dumps(params))
    stage.main()
    report = json.loads((folder / "reports/dataset.json").read_text())
    ((reason, count),) = report["sources"]["set"]["dropped"].items()
    assert count == 5 and "label" in reason and len(report["examples"]) == 3
    assert "set: column note is not read: 20 of 20 rows hold something, such as 'n'" in capsys.readouterr().out
    params["dataset"]["mix"]["set"]["ignore"] = ["label"]
    Path("params.yaml").write_text(json.dumps(params))
    stage.main()
    assert not json.loads((folder / "reports/dataset.json").read_text())["dropped"]


@pytest.mark.parametrize(
    ("rows", "fits", "lost"),
    [
        ([{"instruction": "i", "input": "x", "response": "r"}], "{user: [instruction, input], assistant: response}", None),
        ([{"question": "q", "context": "c", "answer": "a"}], "{user: [question, context], assistant: answer}", None),
        ([{"prompt": "q", "passage": "c", "completion": "a"}], "{user: [prompt, passage], assistant: completion}", None),
        ([{"instruction": "i", "input": "x", "output": "o", "text": "i x o"}], "alpaca", "text (1 of 1 rows)"),
        ([{"question": "q", "answer": "a", "explanation": "e"}], "{user: question, assistant: answer}", "explanation (1 of 1 rows)"),
        ([{"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}], "system": "s"}], "{system: system, turns: conversations, role: from, text: value}", None),
        ([{"messages": TURNS, "tools": [{"name": "f"}]}], "openai", "tools (1 of 1 rows)"),
        ([{"question": "q", "answer": "a", "context": "c" if number == 0 else ""} for number in range(30)], "{user: question, assistant: answer}", None),
        ([{"question": "q", "answer": "a", "hint": "c" if number < 3 else ""} for number in range(30)], "{user: question, assistant: answer}", "hint (3 of 30 rows)"),
    ],
)  # fmt: skip
def test_a_suggested_mapping_leaves_out_no_text_without_a_word(tmp_path, rows, fits, lost):
    with pytest.raises(StageError) as error:
        layouts.check(read(tmp_path, rows), "set", part({"user": "nothing", "assistant": "none"}).columns)
    said = str(error.value)
    assert said.endswith(f"what would fit: columns: {fits}")
    assert (f"the mapping below does not read {lost}" in said) if lost else "does not read" not in said


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"role": "user", "content": "u"}, "each row is a turn"),
        ({"instruction": "i", "instances": [{"input": "", "output": "o"}]}, "several inputs and outputs a row"),
        ({"chosen": "Human: u Assistant: a", "rejected": "x"}, "a preference between two answers"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "a preference between two answers"),
        ({"custom_id": "1", "body": {"messages": []}}, "a request of OpenAI's batches"),
        ({"text": "once"}, "each row is one text and no conversation"),
        ({"title": "t", "create_time": 1, "mapping": {"a": {}}}, "an export of ChatGPT"),
    ],
)
def test_kinds_of_rows_that_are_not_read_are_named(tmp_path, row, name):
    with pytest.raises(StageError, match=name):
        layouts.check(read(tmp_path, [row]), "set", part("openai").columns)


@pytest.mark.parametrize(
    "text",
    ["I am {{name}}.", "저는 {{name}}입니다", "我是{{name}}，由{{ author }}开发", 'say "{{user.name}}"', "{{이름}}", "{{{name}}}",
     "<image>\nWhat is it?", "What is it?<image>", "<video> and", "<|image|>", "<|image_1|> x", "[IMG]", "see `code` {{name}}"],
)  # fmt: skip
def test_what_was_never_filled_in_is_refused(text):
    assert placeholder(text)
    with pytest.raises(Unfit, match="placeholder in the user turn"):
        Cleaner(CLEAN.model_copy(update={"placeholders": "refuse"}), SPECIAL)(text, "user")
    assert Cleaner(CLEAN, SPECIAL)(text, "user") == text


@pytest.mark.parametrize(
    "text",
    [r"\frac{{a}}{{b}}", "x^{{n}} + x_{{k}}", "```html\n<p>{{ name }}</p>\n```", "use `{{ name }}` in it", "{{1, 2}, {3}}",
     "f = {'a': {}}", "<image>x</image>", "a <b> c", "[IMF] and [1]", "style={{color}}", "{name}", "<img src='x'>"],
)  # fmt: skip
def test_braces_and_tags_that_mean_themselves(text):
    assert placeholder(text) == ""
