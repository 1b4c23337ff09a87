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
from tests.data.test_layouts import CLEAN, SPECIAL, part, read
from tests.mixing.test_dataset import run, unlike  # noqa: F401 (a fixture)

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
        ({"label": "yes"}, {"label": "no"}, "KTO"),
        ({"label": "thumbs-up"}, {"label": "thumbs-down"}, "KTO"),
        ({"label": "Thumbs Up"}, {"label": "Thumbs Down"}, "KTO"),
        ({"label": "x"}, {"label": False}, "KTO"),
        ({"labels": [1]}, {"labels": False}, "KTO"),
        ({"is_chosen": True}, {"is_chosen": False}, "KTO"),
        ({"isChosen": True}, {"isChosen": False}, "KTO"),
        ({"feedback": "good"}, {"feedback": "bad"}, "KTO"),
        ({"rating": "👍"}, {"rating": "👎"}, "KTO"),
        ({"status": "accepted"}, {"status": "rejected"}, "KTO"),
        ({"rejected": False}, {"rejected": True}, "KTO"),
        ({"rejected": "no"}, {"rejected": "yes"}, "KTO"),
        ({"bad_answer": False}, {"bad_answer": True}, "KTO"),
        ({"answer_is_correct": True}, {"answer_is_correct": False}, "KTO"),
        ({"answer_correct": 1}, {"answer_correct": 0}, "KTO"),
        ({"meta": {"desirable": True}}, {"meta": {"desirable": False}}, "KTO"),
        ({"meta": {"kto": {"label": True}}}, {"meta": {"kto": {"label": False}}}, "KTO"),
        ({"kto": '{"desirable": "yes"}'}, {"kto": '{"desirable": "no"}'}, "KTO"),
        ({"label": {"is_good": True}}, {"label": {"is_good": False}}, "KTO"),
        ({"exclude": False}, {"exclude": True}, "not to train on"),
        ({"skip": 0}, {"skip": 1}, "not to train on"),
        ({"discard": "no"}, {"discard": "yes"}, "not to train on"),
        ({"to_be_removed": None}, {"to_be_removed": True}, "not to train on"),
        ({"excluded_from_training": False}, {"excluded_from_training": True}, "not to train on"),
        ({"use_for_training": 1}, {"use_for_training": 0}, "not to train on"),
        ({"train_flag": True}, {"train_flag": False}, "not to train on"),
        ({"not_preferred": False}, {"not_preferred": True}, "KTO"),
        ({"reject": "no"}, {"reject": "yes"}, "KTO"),
        ({"history": {"2020": "x"}}, {"history": {"role": ["user"], "content": ["u"]}}, "earlier turns"),
        ({"do_not_train": False}, {"do_not_train": True}, "not to train on"),
        ({"train": "yes"}, {"train": "no"}, "not to train on"),
        ({"training": True}, {"training": False}, "not to train on"),
        ({"meta": {"skip": False}}, {"meta": {"skip": True}}, "not to train on"),
        ({"loss_mask": [1, 1]}, {"loss_mask": [0, 1]}, "a mask"),
        ({"train_on_input": False}, {"train_on_input": True}, "the questions, too"),
        ({"preference": None}, {"preference": "A"}, "preference data"),
        ({"winner": None}, {"winner": "Response 2"}, "preference data"),
        ({"photo": None}, {"photo": "cats/1.JPG"}, "pictures or sound"),
        ({"image": "none"}, {"image": "data:image/png;base64,iVBOR"}, "pictures or sound"),
        ({"image": ""}, {"image": "https://example.com/a?id=5"}, "pictures or sound"),
        ({"screenshot_b64": ""}, {"screenshot_b64": "iVBORw0KGgo" * 9}, "pictures or sound"),
        ({"pixel_values": []}, {"pixel_values": [[0.5, 0.25]]}, "pictures or sound"),
        ({"image1": {"bytes": None}}, {"image1": {"path": "x"}}, "pictures or sound"),
        ({"tool": None}, {"tool": {"name": "f", "parameters": {}}}, "tools"),
        ({"tools": ""}, {"tools": "get_weather(city): the weather"}, "tools"),
        ({"function_calls": []}, {"function_calls": [{"name": "f"}]}, "tool calls"),
        ({"chat_history": ""}, {"chat_history": "User: hi\nAssistant: hello"}, "earlier turns"),
        ({"history": "2020"}, {"history": '[["q", "a"]]'}, "earlier turns"),
        ({"previous_messages": None}, {"previous_messages": TURNS}, "earlier turns"),
        ({"context": "a passage"}, {"context": TURNS}, "earlier turns"),
        ({"labels": ["good"]}, {"labels": ["bad"]}, "KTO"),
        ({"desirable": [True, False]}, {"desirable": [False]}, "KTO"),
        ({"user_feedback": "thumbs up"}, {"user_feedback": "thumbs down"}, "KTO"),
        ({"thumbs": "up"}, {"thumbs": "down"}, "KTO"),
        ({"weight": 0.5}, {"weight": 0.0}, "not to train on"),
        ({"weight": 0.5}, {"weight": 0}, "not to train on"),
        ({"multi_modal_data": {}}, {"multi_modal_data": {"image": ["a.png"]}}, "pictures or sound"),
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
        [{"label": 0, "label_text": "negative"}, {"label": 1, "label_text": "positive"}],
        [{"label": "0", "sentiment": "neg"}, {"label": "1", "sentiment": "pos"}, {"label": "0", "sentiment": "neg"}],
        [{"label": 0, "label_text": "negative"}] * 3,
        [{"label": n, "label_text": text} for n, text in enumerate(["World", "Sports", "Business", "Sci/Tech"])],
        [{"label": "yes"}, {"label": "no"}, {"label": "maybe"}],
        [{"label": "entailment"}, {"label": "contradiction"}],
        [{"history": "2020"}, {"history": "none of note"}],
        [{"history": 2020}, {"history": [2020, 2021]}],
        [{"preference": "short answers"}, {"preference": "A"}],
        [{"preference": 5}, {"preference": 1}],
        [{"winner": "Spain"}, {"winner": "Brazil"}],
        [{"picture": "none"}, {"picture": "n/a"}],
        [{"image": "a cat on a mat"}, {"image": 3}],
        [{"image_caption": "a/b.png"}, {"has_image": True}],
        [{"tool": "hammer"}, {"tool": "saw"}],
        [{"function": "int main() { return 0; }"}, {"function": "f(x) = x"}],
        [{"source": "web", "category": "x", "score": 0, "rating": 5, "split": "train", "year": 2020}] * 2,
        [{"is_english": False, "is_safe": False, "toxic": True}] * 2,
        [{"weights": [0.5, 0.5]}, {"weights": [0, 1.5]}],
        [{"attention_mask": [0, 1]}, {"attention_mask": [1, 1]}],
        [{"loss": 0.0}, {"loss": 1.25}],
        [{"use": "kitchen"}, {"use": "garden"}],
        [{"keep": True}, {"skip": False}],
        [{"train_on_input": False}] * 2,
        [{"best_answer": "yes, it is"}, {"good_answer": "no"}],
        [{"correct_answer": "no"}, {"correct_answer": "yes"}],
        [{"rejected_reason": "long"}, {"chosen_score": 1}],
        [{"meta": {"label": 0, "source": "x", "valid": "no", "image": "a.png"}}] * 2,
        [{"meta": '{"lang": "no"}'}, {"meta": "{not JSON: false}"}],
        [{"photo": None}, {"photo": ""}],
        [{"context": ["a passage", "another"]}, {"context": "User: is a word"}],
        [{"label": [0]}, {"labels": [1, 0]}],
        [{"choices": [{"text": "x", "correct": False}, {"text": "y", "correct": True}]}] * 2,
        [{"media": "newspaper"}, {"media": "radio"}],
        [{"label": "up"}, {"label": "down"}],
        [{"messages": TURNS}, {"conversations": TURNS}],
        [{"status": "open"}, {"status": "rejected"}],
        [{"quality": "high"}, {"quality": "bad"}],
        [{"direction": "down"}, {"label": "up"}],
    ],
)
def test_columns_that_say_nothing_against_a_row(tmp_path, more):
    assert told(read(tmp_path, [pair(**one) for one in more]), fail=True) == []


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([{"label": 0, "label_text": "negative"}, {"label": 1, "label_text": "positive"}], False),
        ([{"label": n % 2, "genre": ["spam", "ham"][n % 2]} for n in range(6)], False),
        ([{"label": n % 2, "genre": ["spam", "ham"][n % 3 > 0]} for n in range(6)], True),
        ([{"label": n % 2, "completion": ["worse", "better"][n % 2]} for n in range(6)], True),
        ([{"label": n % 2, "model": ["gpt2", "gpt4"][n % 2]} for n in range(6)], True),
        ([{"label": n % 2, "feedback": ["bad", "good"][n % 2]} for n in range(6)], True),
        ([{"label": n % 2, "note": "same"} for n in range(6)], True),
        ([{"label": n % 2, "labeller": ["Ann", "Bob"][n % 2]} for n in range(6)], True),
        ([{"label": n % 2 == 1, "genre": ["spam", "ham"][n % 2]} for n in range(6)], True),
        ([{"kto_tag": n % 2, "genre": ["spam", "ham"][n % 2]} for n in range(6)], True),
    ],
)
def test_a_number_under_label_is_a_class_where_a_text_stands_one_to_one_with_it(tmp_path, rows, verdict):
    found = told(read(tmp_path, [pair() | row for row in rows]))
    assert bool(found) is verdict


def test_classes_that_parquet_names(tmp_path):
    from datasets import ClassLabel, Features, Value
    from datasets import Dataset as Rows

    (tmp_path / "set").mkdir()
    features = Features(prompt=Value("string"), completion=Value("string"), label=ClassLabel(names=["neg", "pos"]))
    Rows.from_list([pair(label=0), pair(label=1)], features).to_parquet(tmp_path / "set/rows.parquet")
    rows = raw_files.open_rows(tmp_path / "set", "set", Source(path="data/x"))
    assert told(rows, fail=True) == []
    with pytest.raises(
        StageError, match=r"'label' holds the numbers of classes, not text: write their names \(neg, pos\)"
    ):
        layouts.check(rows, "set", part({"user": "prompt", "assistant": "label"}).columns)


@pytest.mark.parametrize("name", ["meta", "label", "image", "history", "tools", "rejected"])
def test_objects_within_each_other_without_end(tmp_path, name):
    for deep in ("[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900):
        (tmp_path / str(len(deep))).mkdir()
        told(read(tmp_path / str(len(deep)), [pair(**{name: deep}), pair()]))


def test_sst2_as_it_is(tmp_path):
    """Mapped to its label's text, no row of label 0 is lost."""
    rows = [{"text": f"film {n}", "label": n % 2, "label_text": ["negative", "positive"][n % 2]} for n in range(8)]
    assert told(read(tmp_path, rows), {"user": "text", "assistant": "label_text"}, fail=True) == []


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


def test_the_stage_lists_refuses_and_ignores_fields_of_turns(run, capsys):  # noqa: F811
    folder = run(unlike(20))
    file, params = folder / "build/raw/set/rows.jsonl", json.loads(Path("params.yaml").read_text())
    made = [json.loads(line) for line in file.read_text().splitlines()]
    made = [
        [
            {"role": "user", "content": row["u"], "mood": "sad"},
            {"role": "assistant", "content": row["a"], "loss": number % 4 != 0},
        ]
        for number, row in enumerate(made)
    ]
    file.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in made))
    mix = params["dataset"]["mix"]["set"] = {"share": 1.0, "columns": "openai"}
    Path("params.yaml").write_text(json.dumps(params))
    from stages import dataset as stage

    with pytest.raises(StageError, match=r"row 0: loss of an answer that says not to train on it.*") as error:
        stage.main()
    assert '  hint: to train on such rows all the same: dataset.mix.set.ignore: ["messages[].loss"]' in str(error.value)
    mix["ignore"] = ["messages[].loss"]
    Path("params.yaml").write_text(json.dumps(params))
    stage.main()
    report = json.loads((folder / "reports/dataset.json").read_text())
    assert [(one["column"], one["rows"], one["sample"]) for one in report["unread"]] == [
        ("messages[].mood", 20, "'sad'"),
        ("messages[].loss", 20, "false"),
    ]
    assert "set: messages[].mood is not read: 20 of 20 rows hold something, such as 'sad'" in capsys.readouterr().out
    mix["ignore"] = ["messages[].lose"]
    Path("params.yaml").write_text(json.dumps(params))
    with pytest.raises(
        StageError, match=r"no turn has anything in .messages\[\].lose.; not read are messages\[\].mood, mess"
    ):
        stage.main()


def test_structs_of_parquet_are_looked_into(tmp_path):
    (tmp_path / "set").mkdir()
    rows = [pair(meta={"kto": {"desirable": True}}), pair(meta={"kto": {"desirable": False}}), pair(meta=None)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set/rows.parquet")
    (found,) = told(raw_files.open_rows(tmp_path / "set", "set", Source(path="data/x")))
    assert found.rows.tolist() == [False, True, False] and "'desirable' in 'meta'" in found.reason


def test_ktos_hint_says_each_way_once(tmp_path):
    with pytest.raises(StageError) as error:
        told(read(tmp_path, [pair(label=True), pair(label=False)]), fail=True)
    assert str(error.value).endswith(
        "  hint: leave those rows out (dataset.unfit: drop); if it means something else, or to train on them all "
        "the same: dataset.mix.set.ignore: [label]"
    )


@pytest.mark.parametrize(
    ("rows", "fits", "lost"),
    [
        ([{"instruction": "i", "input": "x", "response": "r"}],
         "{user: [instruction, input], assistant: response}", None),
        ([{"question": "q", "context": "c", "answer": "a"}], "{user: [question, context], assistant: answer}", None),
        ([{"prompt": "q", "passage": "c", "completion": "a"}],
         "{user: [prompt, passage], assistant: completion}", None),
        ([{"instruction": "i", "input": "x", "output": "o", "text": "i x o"}], "alpaca", "text (1 of 1 rows)"),
        ([{"question": "q", "answer": "a", "explanation": "e"}],
         "{user: question, assistant: answer}", "explanation (1 of 1 rows)"),
        ([{"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}], "system": "s"}],
         "{system: system, turns: conversations, role: from, text: value}", None),
        ([{"messages": TURNS, "tools": [{"name": "f"}]}], "openai", "tools (1 of 1 rows)"),
        ([{"question": "q", "answer": "a", "context": "c" if number == 0 else ""} for number in range(30)],
         "{user: question, assistant: answer}", None),
        ([{"question": "q", "answer": "a", "hint": "c" if number < 3 else ""} for number in range(30)],
         "{user: question, assistant: answer}", "hint (3 of 30 rows)"),
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
    ["I am {{name}}.", "저는 {{name}}입니다", "我是{{name}}，由{{ author }}开发", 'say "{{user.name}}"', "{{이름}}",
     "{{{name}}}", "<image>\nWhat is it?", "What is it?<image>", "<video> and", "<|image|>", "<|image_1|> x", "[IMG]",
     "see `code` {{name}}"],
)  # fmt: skip
def test_what_was_never_filled_in_is_refused(text):
    assert placeholder(text)
    with pytest.raises(Unfit, match="placeholder in the user turn"):
        Cleaner(CLEAN.model_copy(update={"placeholders": "refuse"}), SPECIAL)(text, "user")
    assert Cleaner(CLEAN, SPECIAL)(text, "user") == text


@pytest.mark.parametrize(
    "text",
    [r"\frac{{a}}{{b}}", "x^{{n}} + x_{{k}}", "```html\n<p>{{ name }}</p>\n```", "use `{{ name }}` in it",
     "{{1, 2}, {3}}", "f = {'a': {}}", "<image>x</image>", "a <b> c", "[IMF] and [1]", "style={{color}}", "{name}",
     "<img src='x'>"],
)  # fmt: skip
def test_braces_and_tags_that_mean_themselves(text):
    assert placeholder(text) == ""
