"""Every layout that data comes in, from files to turns; a mapping that does not fit says what is there and what would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingot.inside import layouts, rawfiles
from ingot.inside.cleaning import Cleaner, Unfit
from ingot.inside.conversations import Mapping
from ingot.inside.progress import StageError
from ingot.params.dataset import Clean, Columns, Part
from ingot.params.raw import Source

CLEAN = Clean(
    unicode="NFC", control_characters="keep", control_tokens="refuse", mojibake="refuse", min_answer_tokens=1,
    duplicates="drop", near_duplicates=0.85, leaks=0.7,
)  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
LOCAL = Source(path="data/x")


def part(columns: dict | str, **more) -> Part:
    return Part(share=1.0, columns=columns, **more)


def mapped(row: dict, mapping: dict | str, **more) -> list[list[str]]:
    made = Mapping(part(mapping, **more), "\n", "default", Cleaner(CLEAN, SPECIAL), "chatml")(row)
    return [[message["role"], message["content"]] for message in made]


def folder_of(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def read(folder: Path, rows: list[dict]):
    return rawfiles.open_rows(folder_of(folder / "set", rows), "set", LOCAL)


THREE = [["system", "default"], ["user", "u"], ["assistant", "a"]]
WEATHER = [
    {"from": "system", "value": "s"},
    {"from": "human", "value": "u"},
    {"from": "gpt", "value": "a"},
    {"from": "human", "value": "u2"},
    {"from": "gpt", "value": "a2"},
]
FIVE = [["system", "s"], ["user", "u"], ["assistant", "a"], ["user", "u2"], ["assistant", "a2"]]
LAYOUTS = {
    # the five of the pipeline that this project started from
    "system user assistant": ({"system": "", "user": "u", "assistant": "a"}, {"system": "system", "user": "user", "assistant": "assistant"}, THREE),
    "sujet": ({"system_prompt": "s", "user_prompt": "u", "answer": "a"}, {"system": "system_prompt", "user": "user_prompt", "assistant": "answer"}, [["system", "s"], *THREE[1:]]),
    "won": ({"prompt": "u", "original_response": "a"}, {"user": "prompt", "assistant": "original_response"}, THREE),
    "trading": ({"instruction": "u", "input": "x", "output": "a"}, {"user": ["instruction", "input"], "assistant": "output"}, [THREE[0], ["user", "u\nx"], THREE[2]]),
    "fingpt": ({"input": "x", "output": "a", "instruction": "u"}, "alpaca", [THREE[0], ["user", "u\nx"], THREE[2]]),
    # and others
    "alpaca without input": ({"instruction": "u", "input": "", "output": "a"}, "alpaca", THREE),
    "prompt": ({"prompt": "u", "completion": "a"}, "prompt", THREE),
    "openai": ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, "openai", THREE),
    "openai of parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}, "openai", THREE),
    "openai as text": ({"messages": json.dumps([{"role": "developer", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])}, "openai", [["system", "s"], *THREE[1:]]),
    "sharegpt": ({"conversations": WEATHER}, "sharegpt", FIVE),
    "sharegpt with a system column": ({"system": "s", "conversations": WEATHER[1:]}, {"system": "system", "turns": "conversations", "role": "from", "text": "value"}, FIVE),
    "two lists": ({"prompt": [{"role": "user", "content": "u"}], "completion": [{"role": "assistant", "content": "a"}]}, {"turns": ["prompt", "completion"], "role": "role", "text": "content"}, THREE),
    "own names of roles": ({"talk": [{"who": "Kunde", "what": "u"}, {"who": "Bank", "what": "a"}]}, {"turns": "talk", "role": "who", "text": "what", "roles": {"Kunde": "user", "Bank": "assistant"}}, THREE),
    "a tool's answer": (
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "look up"}, {"role": "tool", "content": "42"}, {"role": "assistant", "content": "a"}]},
        "openai", [*THREE[:2], ["assistant", "look up"], ["tool", "42"], THREE[2]],
    ),
    "thinking in the text": ({"prompt": "u", "completion": "<think>\nhm\n</think>\na"}, "prompt", [*THREE[:2], ["assistant", "<think>\nhm\n</think>\na"]]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_from_a_file(tmp_path, name):
    row, mapping, turns = LAYOUTS[name]
    rows = read(tmp_path, [row, row])
    layouts.check(rows, "set", part(mapping).columns)
    assert mapped(rows[0], mapping) == turns


def test_lists_of_turns_in_parquet(tmp_path):
    from datasets import Dataset as Rows

    (tmp_path / "set").mkdir()
    Rows.from_list([{"conversations": WEATHER}, {"conversations": None}]).to_parquet(tmp_path / "set/rows.parquet")
    rows = rawfiles.open_rows(tmp_path / "set", "set", LOCAL)
    layouts.check(rows, "set", part("sharegpt").columns)
    assert mapped(rows[0], "sharegpt") == FIVE


def test_a_system_prompt_of_the_params_is_held_to_the_same():
    with pytest.raises(StageError, match=r"control token <\|im_end\|> in the system turn that the params give: 'be<"):
        mapped({"u": "u", "a": "a"}, {"user": "u", "assistant": "a"}, system="be<|im_end|>")


def test_a_system_prompt_of_the_params_that_shows_nothing():
    for blank in (" ", "\n\t"):
        with pytest.raises(ValidationError, match=r"is blank: write a system prompt, or leave the key out"):
            part("alpaca", system=blank)
    with pytest.raises(StageError, match=r"the system prompt '\\u200b' shows nothing: write one, or leave it out"):
        mapped({"u": "u", "a": "a"}, {"user": "u", "assistant": "a"}, system="\u200b")


def test_a_column_that_shows_nothing_is_left_out_of_the_question():
    row = {"instruction": "u", "input": "\u200b", "output": "a"}
    assert mapped(row, "alpaca") == THREE


def test_the_lists_that_datasets_keeps_as_one_list_a_field():
    row = {"conversations": {"from": ["human", "gpt"], "value": ["u", "a"]}}
    assert mapped(row, "sharegpt") == THREE


def test_system_prompt_is_the_rows_own_else_the_sets_else_the_default():
    columns = {"system": "s", "user": "u", "assistant": "a"}
    for own, of_set, first in (
        ("row", "set", "row"),
        ("  ", "set", "set"),
        (None, None, "default"),
        ("", "세트", "세트"),
        ("\u200b", "set", "set"),
    ):
        row = {"s": own, "u": "u", "a": "a"}
        assert mapped(row, columns, system=of_set)[0] == ["system", first]
    for blank in (" ", "\ufeff"):
        turns = [{"from": "system", "value": blank}, *WEATHER[1:]]
        assert mapped({"conversations": turns}, "sharegpt", system="set")[0] == ["system", "set"]


def say(*turns: tuple[str, str], **more) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in turns] + ([more] if more else [])}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (say(("user", ""), ("assistant", "a")), "empty user turn"),
        (say(("user", "u"), ("assistant", " \n")), "empty assistant turn"),
        (say(("user", "u"), ("assistant", "\u200b\u200b")), "empty assistant turn"),
        (say(("user", "u")), "no assistant turn"),
        (say(("assistant", "a")), "no user turn"),
        ({"messages": []}, "no user turn"),
        ({"messages": None}, "no user turn"),
        (say(("assistant", "a"), ("user", "u"), ("assistant", "a")), "assistant turn after system turn"),
        (say(("user", "u"), ("user", "u"), ("assistant", "a")), "user turn after another turn"),
        (say(("user", "u"), ("assistant", "a"), ("system", "s")), "system turn after assistant turn"),
        (say(("user", "u"), ("assistant", "a"), ("user", "u")), "ends with a user turn"),
        (say(("user", "u"), ("narrator", "a")), "unknown role"),
        (say(("user", "u"), role="assistant", content="", tool_calls=[{"name": "f"}]), "tool_calls, which the chatml template cannot render"),
        (say(("user", "u"), role="assistant", content="a", reasoning_content="hm"), "reasoning_content, which the chatml template cannot render"),
        (say(("user", [{"type": "image_url"}]), ("assistant", "a")), "a turn that is no text"),
        ({"messages": "[1"}, "turns that are no JSON"),
        ({"messages": "[" * 100_000}, "turns that are no JSON"),
        (say(("user", [{"type": "text", "text": 5}]), ("assistant", "a")), "a turn that is no text"),
        ({"messages": {"role": ["user", "assistant"], "content": ["u"]}}, "turns whose fields are lists of different lengths"),
        ({"messages": ["u", "a"]}, "turns that are no list of objects"),
        (say(("user", "x<|im_end|>\n<|im_start|>system"), ("assistant", "a")), "control token <|im_end|> in the user turn"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_trained_on_are_named(row, reason):
    with pytest.raises(Unfit) as error:
        mapped(row, "openai")
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("row", "mapping", "fault", "fits"),
    [
        ({"question": "q?", "answer": "yes"}, "prompt", "no column 'prompt'; there are question, answer", "{user: question, assistant: answer}"),
        ({"instruction": "i", "input": "", "output": "o"}, {"user": "prompt", "assistant": "output"}, "no column 'prompt'", "alpaca"),
        ({"conversations": WEATHER}, "openai", "no column 'messages'", "sharegpt"),
        ({"dialog": WEATHER}, "sharegpt", "no column 'conversations'", "{turns: dialog, role: from, text: value}"),
        ({"conversations": [{"role": "user", "content": "u"}]}, "sharegpt", "its turns have no 'from' but role, content", "{turns: conversations, role: role, text: content}"),
        ({"System": "s", "Question": "q", "Response": "r"}, "alpaca", "no column 'instruction'", "{system: System, user: Question, assistant: Response}"),
        ({"prompt": "q", "completion": 1}, "prompt", "column 'completion' holds int64, not text; the first is 1", None),
        ({"prompt": "q", "completion": [1, "x"]}, "prompt", "column 'completion' holds other values, not text; the first is [1", None),
        ({"messages": [1, 2]}, "openai", "turns that are no list of objects", None),
    ],
)  # fmt: skip
def test_a_wrong_mapping_lists_the_columns_two_rows_and_what_would_fit(tmp_path, row, mapping, fault, fits):
    rows = read(tmp_path, [row, row | {"long": "x" * 500}])
    with pytest.raises(StageError) as error:
        layouts.check(rows, "set", part(mapping).columns)
    said = str(error.value)
    assert "dataset.mix.set.columns" in said and fault in said
    assert "row 0: " in said and "row 1: " in said and "x" * 100 not in said
    assert said.endswith(f"what would fit: columns: {fits}" if fits else "no layout that is known fits these columns")


def test_a_mapping_that_fits_other_rows_is_right(tmp_path):
    rows = [{"messages": "oops"}, {"messages": [{"role": "user"}]}, say(("user", "u"), ("assistant", "a"))]
    layouts.check(read(tmp_path, rows), "set", part("openai").columns)


def test_roles_of_other_names_are_asked_for(tmp_path):
    rows = read(tmp_path, [{"messages": [{"role": "A", "content": "x"}, {"role": "B", "content": "y"}]}])
    with pytest.raises(StageError, match=r"roles are A, B, of which none is known.*such as roles: {A: user}"):
        layouts.check(rows, "set", part("openai").columns)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ("alpacca", "no layout is called 'alpacca'; did you mean 'alpaca'?"),
        ({"user": "u"}, "needs either `user` and `assistant`"),
        ({"user": "u", "assistant": "a", "turns": "t", "role": "r", "text": "x"}, "needs either"),
        ({"turns": "t"}, "needs either"),
        ({"user": "u", "assistant": "a", "roles": {"x": "user"}}, "needs either"),
        ({"user": "u", "assistant": "a", "sytem": "s"}, "Extra inputs"),
        ({"turns": "t", "role": "r", "text": "x", "roles": {"x": "narrator"}}, "'system', 'user', 'assistant' or 'tool'"),
    ],
)  # fmt: skip
def test_mappings_that_say_nothing_clear_are_refused(columns, fault):
    with pytest.raises(ValidationError, match=fault.replace("?", r"\?")):
        part(columns)


def test_the_columns_of_a_mapping_each_once():
    assert Columns(system="s", user=["a", "b", "a"], assistant="c").wanted() == ["s", "a", "b", "c"]
