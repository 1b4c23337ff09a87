"""Every layout data comes in, from files to turns; a mapping that does not fit says what is there and what would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingot.chat.encoding import CARRIED
from ingot.console.progress import StageError
from ingot.data import layouts
from ingot.data.cleaning import Cleaner, Unfit
from ingot.data.conversations import Mapping
from ingot.data.meaning import Refused
from ingot.data.params import Clean, Columns, Part
from ingot.sources import raw_files
from ingot.sources.params import Source

CLEAN = Clean(
    unicode="NFC", control_characters="keep", control_tokens="refuse", mojibake="refuse", placeholders="keep",
    min_answer_tokens=1, duplicates="drop", near_duplicates=0.85, leaks=0.7,
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
    return raw_files.open_rows(folder_of(folder / "set", rows), "set", LOCAL)


THREE = [["system", "default"], ["user", "u"], ["assistant", "a"]]
WEATHER = [
    {"from": "system", "value": "s"},
    {"from": "human", "value": "u"},
    {"from": "gpt", "value": "a"},
    {"from": "human", "value": "u2"},
    {"from": "gpt", "value": "a2"},
]
ASKED, ANSWERED = [{"role": "user", "content": "u"}], [{"role": "assistant", "content": "a"}]
FIVE = [["system", "s"], ["user", "u"], ["assistant", "a"], ["user", "u2"], ["assistant", "a2"]]
LAYOUTS = {
    # the five of the pipeline that this project started from
    "system user assistant": (
        {"system": "", "user": "u", "assistant": "a"},
        {"system": "system", "user": "user", "assistant": "assistant"}, THREE,
    ),
    "sujet": (
        {"system_prompt": "s", "user_prompt": "u", "answer": "a"},
        {"system": "system_prompt", "user": "user_prompt", "assistant": "answer"}, [["system", "s"], *THREE[1:]],
    ),
    "won": ({"prompt": "u", "original_response": "a"}, {"user": "prompt", "assistant": "original_response"}, THREE),
    "trading": (
        {"instruction": "u", "input": "x", "output": "a"},
        {"user": ["instruction", "input"], "assistant": "output"}, [THREE[0], ["user", "u\nx"], THREE[2]],
    ),
    "fingpt": ({"input": "x", "output": "a", "instruction": "u"}, "alpaca", [THREE[0], ["user", "u\nx"], THREE[2]]),
    # and others
    "alpaca without input": ({"instruction": "u", "input": "", "output": "a"}, "alpaca", THREE),
    "prompt": ({"prompt": "u", "completion": "a"}, "prompt", THREE),
    "openai": (
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, "openai", THREE,
    ),
    "openai of parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]},
                      {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]},
        "openai", THREE,
    ),
    "openai as text": (
        {"messages": json.dumps([{"role": "developer", "content": "s"}, {"role": "user", "content": "u"},
                                 {"role": "assistant", "content": "a"}])},
        "openai", [["system", "s"], *THREE[1:]],
    ),
    "sharegpt": ({"conversations": WEATHER}, "sharegpt", FIVE),
    "sharegpt with a system column": (
        {"system": "s", "conversations": WEATHER[1:]},
        {"system": "system", "turns": "conversations", "role": "from", "text": "value"}, FIVE,
    ),
    "two lists": (
        {"prompt": [{"role": "user", "content": "u"}], "completion": [{"role": "assistant", "content": "a"}]},
        {"turns": ["prompt", "completion"], "role": "role", "text": "content"}, THREE,
    ),
    "own names of roles": (
        {"talk": [{"who": "Kunde", "what": "u"}, {"who": "Bank", "what": "a"}]},
        {"turns": "talk", "role": "who", "text": "what", "roles": {"Kunde": "user", "Bank": "assistant"}}, THREE,
    ),
    "a tool's answer": (
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "look up"},
                      {"role": "tool", "content": "42"}, {"role": "assistant", "content": "a"}]},
        "openai", [*THREE[:2], ["assistant", "look up"], ["tool", "42"], THREE[2]],
    ),
    "thinking in the text": (
        {"prompt": "u", "completion": "<think>\nhm\n</think>\na"}, "prompt",
        [*THREE[:2], ["assistant", "<think>\nhm\n</think>\na"]],
    ),
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
    rows = raw_files.open_rows(tmp_path / "set", "set", LOCAL)
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
        (say(("user", "u"), ("narrator", "a")), "unknown role 'narrator'"),
        (say(("user", "u"), ("\x1b" + "x" * 99, "a")), f"unknown role '\\x1b{'x' * 39}'"),
        (say(("user", "u"), ("assistant", "a"), ("user", "u"), role="assistant", content="a", weight=0),
         "weight of an answer that is not 1, but every answer is trained on"),
        (say(("user", "u"), role="assistant", content="a", function_call={"name": "f"}),
         "function_call, which the chatml template cannot render"),
        ({"messages": [{"role": "user", "content": "u", "thinking": "hm"}, {"role": "assistant", "content": "a"}]},
         "thinking, which the chatml template cannot render"),
        (say(("user", "u"), role="assistant", content="", tool_calls="f"), "tool_calls that are no list of objects"),
        (say(("user", "u"), role="assistant", content="", tool_calls=[{"function": {"arguments": "{}"}}]),
         "a tool call without a name"),
        *((say(("user", "u"), role="assistant", content="", tool_calls=[{"name": "f", "arguments": wrong}]),
           "a tool call whose arguments are no JSON object")
          for wrong in ("{", "[1]", 5, {"x": float("nan")}, "[" * 100_000)),
        (say(("user", "u"), role="assistant", content="", tool_calls=[{"name": "f<|im_end|>"}]),
         "control token <|im_end|> in the assistant turn"),
        (say(("user", "u"), role="assistant", content="", reasoning_content="hm"), "empty assistant turn"),
        (say(("user", "u"), role="assistant", content="<think>hm</think>a", reasoning="hm"),
         "thoughts in two places of a turn"),
        (say(("user", "u"), role="assistant", content="a", reasoning="hm", thinking="so"),
         "thoughts in two places of a turn"),
        (say(("user", [{"type": "image_url"}]), ("assistant", "a")),
         "a turn that is no text: a part of type 'image_url'"),
        ({"messages": "[1"}, "turns that are no JSON"),
        ({"messages": "[" * 100_000}, "turns that are no JSON"),
        (say(("user", [{"type": "text", "text": 5}]), ("assistant", "a")), "a turn that is no text"),
        ({"messages": {"role": ["user", "assistant"], "content": ["u"]}},
         "turns whose fields are lists of different lengths"),
        ({"messages": ["u", "a"]}, "turns that are no list of objects"),
        (say(("user", "x<|im_end|>\n<|im_start|>system"), ("assistant", "a")),
         "control token <|im_end|> in the user turn"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_trained_on_are_named(row, reason):
    with pytest.raises(Unfit) as error:
        mapped(row, "openai")
    assert str(error.value) == reason


def test_an_answer_of_weight_1_is_trained_on():
    row = {
        "messages": [{"role": "user", "content": "u", "weight": 0}, {"role": "assistant", "content": "a", "weight": 1}]
    }
    assert mapped(row, "openai") == THREE
    row["messages"][1]["weight"] = None
    assert mapped(row, "openai") == THREE


CALLS = [
    {"id": "c1", "type": "function",
     "function": {"name": "get_price", "arguments": {"종목": "삼성전자", "days": [1, 2.5], "all": None}}},
    {"name": "now", "arguments": {}},
]  # fmt: skip
ANSWERS = {
    "a call": {"content": "", "tool_calls": CALLS[:1]},
    "two after a text": {"content": "Let me see.", "tool_calls": CALLS},
    "thoughts": {"content": "a", "reasoning_content": "\nhm, 1 < 2\n"},
    "thoughts and calls": {"content": "", "reasoning_content": "hm", "tool_calls": CALLS},
    "all": {"content": "So:", "reasoning_content": "hm", "tool_calls": CALLS},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_calls_and_thoughts_are_written_as_qwens_own_template_does(name, tokenizer):
    answer = {"role": "assistant"} | ANSWERS[name]
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    ours = mapped({"messages": [*asked, answer]}, "openai")
    file = "Qwen-Qwen3-0.6B" if "reasoning_content" in answer else "Qwen-Qwen2.5-7B-Instruct"
    source = (Path(__file__).parents[2] / f"llama.cpp/models/templates/{file}.jinja").read_text()
    theirs = tokenizer.apply_chat_template([*asked, answer], chat_template=source, tokenize=False)
    assert theirs.endswith(f"<|im_start|>assistant\n{ours[-1][1]}<|im_end|>\n")


def test_calls_and_thoughts_by_their_other_names():
    text = '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    call = {"type": "function", "function": {"name": "f", "arguments": '{\n  "x": 1}'}}
    for name in ("reasoning_content", "reasoning", "thinking"):
        row = say(("user", "u"), role="assistant", content=None, tool_calls=[call], **{name: "hm"})
        assert mapped(row, "openai")[-1] == ["assistant", text]
    row = say(("user", "u"), role="assistant", content="a", reasoning="hm", reasoning_content="hm", thinking=" ")
    assert mapped(row, "openai")[-1][1] == "<think>\nhm\n</think>\n\na"
    for nothing in ("", None):
        row = say(("user", "u"), role="assistant", tool_calls=[{"name": "f", "arguments": nothing}])
        assert mapped(row, "openai")[-1][1] == '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("template", sorted(CARRIED))
def test_which_templates_take_calls_and_thoughts(template):
    of = Mapping(part("openai"), "\n", "default", Cleaner(CLEAN, SPECIAL), template)
    for more, takers in (({"tool_calls": CALLS}, ["chatml"]), ({"thinking": "hm"}, ["chatml", "deepseek-r1"])):
        row = say(("user", "u"), role="assistant", content="a", **more)
        if template in takers:
            assert "a" in of(row)[-1]["content"] != "a"
        else:
            with pytest.raises(Unfit, match=f"{next(iter(more))}, which the {template} template cannot render"):
                of(row)


@pytest.mark.parametrize("answers", [[7, 0], [7, None], [-3, "x"], [2**63, 1], [12, 0.5]])
def test_integers_are_read_as_their_digits(tmp_path, answers):
    rows, mapping = read(tmp_path, [{"u": "q", "a": answer} for answer in answers]), {"user": "u", "assistant": "a"}
    layouts.check(rows, "set", part(mapping).columns)
    assert mapped(rows[0], mapping)[-1] == ["assistant", str(answers[0])]


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "uint64"])
def test_integers_of_parquet_are_read_as_their_digits(tmp_path, kind):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "set").mkdir()
    parquet.write_table(pyarrow.table({"u": ["q"], "a": pyarrow.array([7], kind)}), tmp_path / "set/rows.parquet")
    rows, mapping = raw_files.open_rows(tmp_path / "set", "set", LOCAL), {"user": "u", "assistant": "a"}
    layouts.check(rows, "set", part(mapping).columns)
    assert mapped(rows[0], mapping)[-1] == ["assistant", "7"]


@pytest.mark.parametrize("answer", [True, 0.5, [7], {"a": 7}])
def test_what_has_more_than_one_spelling_is_no_text(answer):
    with pytest.raises(Unfit, match="column 'a' holds no text"):
        mapped({"u": "q", "a": answer}, {"user": "u", "assistant": "a"})


def field(name, value, role="assistant", mapping="openai", **more):
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    turns[role == "assistant"] |= {name: value}
    return mapped({"messages": turns}, mapping, **more)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *((name, value, f"{name} of an answer that says not to train on it, but every answer is trained on")
          for name, value in {
            "loss": False, "train": "no", "training": False, "trainable": 0, "exclude": True, "masked": 1,
            "is_good": False, "label": "thumbs-down", "isTrained": "false", "rejected": True, "loss_weight": 0.0,
            "kto_tag": False, "skip": "yes",
        }.items()),
        ("weight", 0, "weight of an answer that is not 1"),
        ("weight", 0.5, "weight of an answer that is not 1"),
        ("weight", "0", "weight of an answer that is not 1"),
        ("meta", {"train": False}, "train of an answer that says not to train on it"),
        ("mask", True, "mask of an answer, which some tools train on"),
        ("mask", False, "mask of an answer, which some tools train on"),
        ("image_url", "https://x.org/1", "image_url of a turn, and only text is trained on"),
        ("images", ["a.png"], "images of a turn, and only text is trained on"),
        ("image", {"bytes": "x"}, "image of a turn, and only text is trained on"),
        ("attachments", [{"name": "a.pdf"}], "attachments of a turn, and only text is trained on"),
        ("tools", [{"name": "f"}], "tools in 'tools' of a turn"),
        ("function_calls", [{"name": "f"}], "tool calls in 'function_calls' of a turn"),
        ("tool_call", '{"name": "f"}', "tool calls in 'tool_call' of a turn"),
        ("thought", "hm", "thoughts in 'thought' of a turn"),
        ("rejected", "b", "preference data in 'rejected' of a turn"),
        ("history", [["q", "a"]], "earlier turns in 'history' of a turn"),
        ("loss_mask", [0, 1], "a mask in 'loss_mask' of a turn"),
    ],
)  # fmt: skip
def test_fields_of_a_turn_that_change_its_meaning_are_refused_until_that_is_meant(name, value, reason):
    with pytest.raises(Refused) as error:
        field(name, value)
    assert str(error.value).startswith(reason) and error.value.field == f"messages[].{name}"
    assert field(name, value, ignore=[f"messages[].{name}"]) == THREE


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", True), ("weight", 1), ("weight", "1.0"), ("train", "yes"), ("skip", False), ("label", 0), ("images", []),
     ("tools", None), ("tool", "hammer"), ("id", 7), ("name", "Ann"), ("lang", "no"), ("emotion", "sad"),
     ("loss", 0.25), ("picture", "none"), ("history", "2020"), ("mask", None), ("function", "greet"), ("score", 0)],
)  # fmt: skip
def test_fields_of_a_turn_that_say_nothing_against_it(name, value):
    assert field(name, value) == THREE


def test_marks_of_a_question_are_no_fault_and_pictures_are():
    for name in ("loss", "train", "weight", "mask"):
        assert field(name, 0, role="user") == THREE
    with pytest.raises(Refused, match="images of a turn"):
        field("images", ["a.png"], role="user")


def test_a_call_of_a_turn_of_its_own_is_held_to_its_marks():
    turns = [{"from": "human", "value": "u"}, {"from": "function_call", "value": '{"name": "f"}', "loss": False}]
    with pytest.raises(Refused, match="loss of an answer that says not to train on it"):
        mapped({"conversations": turns}, "sharegpt")


def test_thoughts_that_a_template_does_not_write_are_ignored_where_that_is_meant():
    row = say(("user", "u"), role="assistant", content="a", reasoning_content="hm")
    of = Mapping(part("openai", ignore=["messages[].reasoning_content"]), "\n", "s", Cleaner(CLEAN, SPECIAL), "llama3")
    assert of(row)[-1]["content"] == "a" and of.unread == {"messages[].reasoning_content": (1, "hm")}


def test_a_thought_among_the_parts_of_a_turn_is_no_answer():
    parts = [{"text": "hm", "thought": True}, {"text": "a", "thought": False}]
    with pytest.raises(Unfit, match="a thought among its parts"):
        mapped(say(("user", "u"), ("assistant", parts)), "openai")
    assert mapped(say(("user", "u"), ("assistant", parts[1:])), "openai") == THREE


def test_fields_of_turns_that_are_not_read_are_counted_by_row():
    of = Mapping(part("openai"), "\n", "s", Cleaner(CLEAN, SPECIAL), "chatml")
    for mood in ("sad", "", "glad"):
        of(
            {
                "messages": [
                    {"role": "user", "content": "u", "mood": mood, "id": 1},
                    {"role": "assistant", "content": "a", "mood": mood},
                ]
            }
        )
    assert of.unread == {"messages[].mood": (2, "sad")}


@pytest.mark.parametrize("field", ["messages[].role", "messages[].content"])
def test_what_a_turn_is_read_from_cannot_be_ignored(field):
    with pytest.raises(ValidationError, match=r"`ignore` names 'messages\[\]..*', which `columns` reads"):
        part("openai", ignore=[field])


def test_turns_without_text_are_refused_row_by_row(tmp_path):
    turns = [{"from": "human", "value": "u"}, {"from": "gpt", "value": None}]
    with pytest.raises(Unfit, match="empty assistant turn"):
        mapped({"conversations": turns}, "sharegpt")
    with pytest.raises(StageError, match=r"column 'conversations': its turns hold nothing in 'value'"):
        layouts.check(read(tmp_path, [{"conversations": turns}] * 2), "set", part("sharegpt").columns)


def test_turns_of_calls_alone_need_no_text(tmp_path):
    row = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "tool_calls": CALLS}]}
    layouts.check(read(tmp_path, [row]), "set", part("openai").columns)


def test_unknown_roles_are_counted_by_name_up_to_a_number():
    of, reasons = Mapping(part("openai"), "\n", "default", Cleaner(CLEAN, SPECIAL), "chatml"), set()
    for number in range(1000):
        with pytest.raises(Unfit) as error:
            of(say((f"text {number}", "user")))
        reasons.add(str(error.value))
    assert len(reasons) == 21 and {"unknown role 'text 0'", "unknown role, another than 20 that are"} < reasons


@pytest.mark.parametrize(
    ("row", "mapping", "fault", "fits"),
    [
        ({"question": "q?", "answer": "yes"}, "prompt", "no column 'prompt'; there are question, answer",
         "{user: question, assistant: answer}"),
        ({"instruction": "i", "input": "", "output": "o"}, {"user": "prompt", "assistant": "output"},
         "no column 'prompt'", "alpaca"),
        ({"conversations": WEATHER}, "openai", "no column 'messages'", "sharegpt"),
        ({"dialog": WEATHER}, "sharegpt", "no column 'conversations'", "{turns: dialog, role: from, text: value}"),
        ({"conversations": [{"role": "user", "content": "u"}]}, "sharegpt",
         "its turns have no 'from' but role, content", "{turns: conversations, role: role, text: content}"),
        ({"System": "s", "Question": "q", "Response": "r"}, "alpaca", "no column 'instruction'",
         "{system: System, user: Question, assistant: Response}"),
        ({"prompt": "q", "completion": 1.5}, "prompt",
         "column 'completion' holds float64, not text; the first is 1.5: write it as text, with the digits", None),
        ({"prompt": "q", "completion": True}, "prompt",
         "column 'completion' holds bool, not text; the first is true: write it as text, in the words", None),
        ({"prompt": "q", "completion": {"text": "a"}}, "prompt",
         "not text; the first is {\"text\": \"a\"}: write it as one text", None),
        ({"question": "q", "answer": 7}, "prompt", "no column 'prompt'", "{user: question, assistant: answer}"),
        ({"prompt": "q", "completion": [1, "x"]}, "prompt",
         "column 'completion' holds other values, not text; the first is [1", None),
        ({"messages": [1, 2]}, "openai", "turns that are no list of objects", None),
        ({"prompt": ASKED, "completion": ANSWERED}, "openai", "no column 'messages'",
         "{turns: [prompt, completion], role: role, text: content}"),
        ({"prompt": [*ASKED, *ANSWERED, *ASKED], "completion": ANSWERED}, "prompt", "column 'prompt' holds",
         "{turns: [prompt, completion], role: role, text: content}"),
        ({"prompt": "u", "rejected": [*ASKED, *ANSWERED], "chosen": [*ASKED, *ANSWERED]}, "prompt",
         "no column 'completion'", "{turns: chosen, role: role, text: content}"),
        ({"prompt": ASKED, "chosen": ANSWERED, "rejected": ANSWERED}, "prompt", "column 'prompt' holds",
         "{turns: [prompt, chosen], role: role, text: content}"),
        ({"prompt": "u", "chosen": "a", "rejected": "b"}, "prompt", "no column 'completion'",
         "{user: prompt, assistant: chosen}"),
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
    with pytest.raises(StageError, match=r"turns of unknown roles: A, B; say what.*such as roles: {A: user}"):
        layouts.check(rows, "set", part("openai").columns)


def test_one_unknown_role_in_every_row_fails_at_once_and_in_some_rows_does_not(tmp_path):
    rows = [say(("user", "u"), (f"narrator {number}", "x"), ("assistant", "a")) for number in range(50)]
    with pytest.raises(StageError, match=r"unknown roles: 'narrator 0', .*, 'narrator 7' and 42 more; say") as error:
        layouts.check(read(tmp_path / "all", rows), "set", part("openai").columns)
    assert "row 1: messages: " in str(error.value)
    layouts.check(read(tmp_path / "some", [*rows, say(("user", "u"))]), "set", part("openai").columns)


def test_a_swapped_mapping_is_told_in_short_and_with_nothing_raw(tmp_path):
    long = "\x1b]0;x\x07\u202e\x9b" + "megabytes " * 100_000
    rows = [{"me\x9bssages": [{"role": "user", "content": f"{number} {long}"}]} for number in range(50)]
    swapped = {"turns": "me\x9bssages", "role": "content", "text": "role"}
    with pytest.raises(StageError) as error:
        layouts.check(read(tmp_path, rows), "set", part(swapped).columns)
    said = str(error.value)
    assert len(said) < 1500 and said.replace("\n", "").isprintable(), said
    assert "row 1: " in said and said.endswith(r"{turns: 'me\x9bssages', role: role, text: content}")


def test_text_of_parquet_that_is_a_string_view(tmp_path):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "set").mkdir()
    texts = {name: pyarrow.array([name], pyarrow.string_view()) for name in ("prompt", "completion")}
    parquet.write_table(pyarrow.table(texts), tmp_path / "set/rows.parquet")
    rows = raw_files.open_rows(tmp_path / "set", "set", LOCAL)
    layouts.check(rows, "set", part("prompt").columns)
    assert mapped(rows[0], "prompt") == [THREE[0], ["user", "prompt"], ["assistant", "completion"]]
    assert layouts.suggestion(rows) == "prompt"


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ("alpacca", "no layout is called 'alpacca'; did you mean 'alpaca'?"),
        ({"user": "u"}, "needs either `user` and `assistant`"),
        ({"user": "u", "assistant": "a", "turns": "t", "role": "r", "text": "x"}, "needs either"),
        ({"turns": "t"}, "needs either"),
        ({"user": "u", "assistant": "a", "roles": {"x": "user"}}, "needs either"),
        ({"user": "u", "assistant": "a", "sytem": "s"}, "Extra inputs"),
        ({"user": "u", "assistant": "u"}, "`assistant` is 'u', which is a column of the question, too"),
        ({"user": ["u", "a"], "assistant": "a"}, "`assistant` is 'a', which is a column of the question, too"),
        ({"system": "a", "user": "u", "assistant": "a"}, "`assistant` is 'a', which is a column of the question, too"),
        ({"turns": "t", "role": "r", "text": "x", "roles": {"x": "narrator"}},
         "'system', 'user', 'assistant' or 'tool'"),
    ],
)  # fmt: skip
def test_mappings_that_say_nothing_clear_are_refused(columns, fault):
    with pytest.raises(ValidationError, match=fault.replace("?", r"\?")):
        part(columns)


def test_the_columns_of_a_mapping_each_once():
    assert Columns(system="s", user=["a", "b", "a"], assistant="c").wanted() == ["s", "a", "b", "c"]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "input_text", "text": "a"}],
        [{"type": "output_text", "text": "a", "annotations": []}],
        [{"type": "text", "value": "a"}],
        [{"text": "a"}],
        ["a"],
        [{"type": "text", "text": {"value": "a", "annotations": []}}],
        {"type": "text", "text": "a"},
        [{"type": "text", "text": "a"}, {"type": "text", "text": None}],
    ],
)
def test_parts_that_are_text_by_other_names(content):
    assert mapped(say(("user", "u"), ("assistant", content)), "openai")[-1][1].strip() == "a"


def test_parts_of_gemini():
    row = {"contents": [{"role": "user", "parts": [{"text": "u"}]}, {"role": "model", "parts": [{"text": "a"}]}]}
    assert mapped(row, {"turns": "contents", "role": "role", "text": "parts"}) == THREE


@pytest.mark.parametrize("kind", ["image_url", "input_image", "refusal", "input_audio", "file"])
def test_parts_that_are_no_text_are_named(kind):
    with pytest.raises(Unfit, match=f"a turn that is no text: a part of type '{kind}'"):
        mapped(say(("user", [{"type": "text", "text": "u"}, {"type": kind}]), ("assistant", "a")), "openai")


def test_what_a_turn_shows_besides_its_text_is_named():
    row = {"messages": [{"role": "user", "content": "u", "images": ["a.png"]}, {"role": "assistant", "content": "a"}]}
    with pytest.raises(Unfit, match="images of a turn, and only text is trained on"):
        mapped(row, "openai")
    row["messages"][0]["images"] = []
    assert mapped(row, "openai") == THREE


def test_system_turns_that_follow_each_other_are_one():
    rest = [("user", "u"), ("assistant", "a")]
    assert mapped(say(("system", "s"), ("developer", "d"), *rest), "openai")[0] == ["system", "s\nd"]
    assert mapped(say(("system", " "), ("system", "d"), *rest), "openai")[0] == ["system", "d"]
    assert mapped(say(("system", "s"), ("system", "s"), *rest), "openai")[0] == ["system", "s"]
    columns = {"system": "own", "turns": "messages", "role": "role", "text": "content"}
    for own, first in (("o", "o\ns"), ("s", "s"), (None, "s")):
        assert mapped(say(("system", "s"), *rest) | {"own": own}, columns)[0] == ["system", first]


@pytest.mark.parametrize(
    "marked", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"trainable": False}, {"weight": 0.5}]
)
def test_answers_that_are_not_to_be_trained_on_are_refused(marked):
    (name,) = marked
    with pytest.raises(Unfit, match=f"{name} of an answer that .*, but every answer is trained on"):
        mapped(say(("user", "u"), role="assistant", content="a", **marked), "openai")
    assert mapped(say(("user", "u"), role="assistant", content="a", **{name: True}), "openai") == THREE


CALL = '{"name": "look", "arguments": {"n": 0}}'


@pytest.mark.parametrize("role", ["function_call", "tool_call"])
@pytest.mark.parametrize("result", ["observation", "tool_response", "function", "tool"])
def test_calls_that_are_turns_of_their_own(tmp_path, role, result):
    talk = [("human", "u"), (role, CALL), (result, "ok"), ("gpt", "a")]
    row = {"conversations": [{"from": name, "value": text} for name, text in talk]}
    rows = read(tmp_path, [row])
    layouts.check(rows, "set", part("sharegpt").columns)
    call = f"<tool_call>\n{CALL}\n</tool_call>"
    assert mapped(rows[0], "sharegpt") == [*THREE[:2], ["assistant", call], ["tool", "ok"], THREE[2]]
    row["conversations"][1]["value"] = f"[{CALL}, {CALL}]"
    assert mapped(row, "sharegpt")[2][1] == f"{call}\n{call}"
    for wrong, reason in (("look it up", "a tool call that is no JSON"), ('{"n": 1}', "a tool call without a name")):
        row["conversations"][1]["value"] = wrong
        with pytest.raises(Unfit, match=reason):
            mapped(row, "sharegpt")
    row["conversations"][1]["value"] = "as it is"
    own = {"turns": "conversations", "role": "from", "text": "value", "roles": {role: "assistant"}}
    assert mapped(row, own)[2] == ["assistant", "as it is"]
    with pytest.raises(Unfit, match="tool_calls, which the gemma template cannot render"):
        row["conversations"][1]["value"] = CALL
        Mapping(part("sharegpt"), "\n", "default", Cleaner(CLEAN, SPECIAL), "gemma")(row)


def test_a_key_twice_in_json_that_stands_in_a_column():
    with pytest.raises(Unfit, match="turns that are no JSON: a key twice in one object"):
        mapped({"messages": '[{"role": "user", "content": "u", "content": "v"}]'}, "openai")
    call = [{"name": "f", "arguments": '{"x": 1, "x": 2}'}]
    with pytest.raises(Unfit, match="a tool call whose arguments are no JSON object"):
        mapped(say(("user", "u"), role="assistant", content="", tool_calls=call), "openai")


def test_the_indent_of_code_is_kept_in_each_column():
    code = "    total = 0\n    return total"
    row = {"instruction": "Fix this:\n", "input": f"\n{code}\n\n", "output": f"\n  \n{code}  \n"}
    assert mapped(row, "alpaca")[1:] == [["user", f"Fix this:\n{code}"], ["assistant", code]]
