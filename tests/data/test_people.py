"""Files as people bring them: what other programs make of a table or a chat, read as meant or refused by name."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ingot.console.progress import StageError
from ingot.data import layouts
from ingot.data.conversations import bare
from ingot.sources import raw_files
from ingot.sources.params import Source
from stages import raw as raw_stage
from tests.data.test_layouts import mapped, part

BOM = "\ufeff"
UA = [{"u": "x", "a": "1"}, {"u": "y", "a": "2"}]


def opened(folder: Path, files: dict[str, str | bytes], wanted: list[str] | None = ("u", "a"), left=None, **source):
    for name, data in files.items():
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    given = Source(path="data/x", **source)
    return raw_files.open_rows(folder / "set", "set", given, None, list(wanted) if wanted else None, left)


READ = {
    "CR line ends": {"a.csv": "u,a\rx,1\ry,2\r"},
    "CR line ends in JSONL": {"a.jsonl": '{"u": "x", "a": "1"}\r{"u": "y", "a": "2"}\r'},
    "CR and LF": {"a.csv": "u,a\r\nx,1\r\ny,2\r\n"},
    "two CSV files joined": {"a.csv": f"{BOM}u,a\nx,1\n{BOM}u,a\ny,2\n"},
    "two CSV files joined, of Windows": {"a.csv": f"{BOM}u,a\r\nx,1\r\n{BOM}u,a\r\ny,2\r\n"},
    "a mark before a row": {"a.csv": f"u,a\nx,1\n{BOM}y,2\n"},
    "two JSONL files joined": {"a.jsonl": f'{BOM}{{"u": "x", "a": "1"}}\n{BOM}{{"u": "y", "a": "2"}}\n'},
    "marks one after another": {"a.jsonl": f'{BOM}{BOM}{{"u": "x", "a": "1"}}\n{{"u": "y", "a": "2"}}\n'},
    "empty columns at the end": {"a.csv": "u,a,,\nx,1,,\ny,2,, \n"},
    "empty rows at the end": {"a.csv": "u,a\nx,1\ny,2\n,\n,,,\n"},
    "empty rows between": {"a.csv": 'u,a\n\nx,1\n , \n"",""\ny,2\n'},
    "empty lines before": {"a.csv": "\n\nu,a\nx,1\ny,2\n"},
    "Excel's separator": {"a.csv": f"{BOM}sep=,\r\nu,a\r\nx,1\r\ny,2\r\n"},
    "Excel's semicolon": {"a.csv": "sep=;\nu;a\nx;1\ny;2\n"},
    "Excel's tab in quotes": {"a.csv": '"sep=\t"\nu\ta\nx\t1\ny\t2\n'},
    "JSONL by another name": {"a.json": '{"u": "x", "a": "1"}\n{"u": "y", "a": "2"}\n'},
    "one row a file": {"1.json": '{\n "u": "x",\n "a": "1"\n}', "2.json": '{\n "u": "y",\n "a": "2"\n}\n'},
    "one row a file in a line": {"1.json": '{"u": "x", "a": "1"}', "2.json": '{"u": "y", "a": "2"}'},
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read_as_it_was_meant(tmp_path, name):
    rows = opened(tmp_path, READ[name])
    assert [{"u": row["u"], "a": row["a"]} for row in rows] == UA
    assert {*rows.column_names} - {"u", "a"} <= {""}


TABLE = r"one object that holds all rows, .* orient='records', lines=True"
REFUSED = {
    "a key twice": (
        {"a.jsonl": '{"u": "x", "a": "1"}\n{"u": "x", "a": "1", "a": "2"}\n'}, r"holds in line 2 the key 'a' twice",
    ),
    "a key twice in a list": (
        {"a.json": '[{"u": "x", "a": "1"}, {"u": "x", "u": "y", "a": "1"}]'}, r"holds in row 2 the key 'u' twice",
    ),
    "a key twice within": ({"a.jsonl": '{"u": "x", "a": [{"k": 1, "k": 1}]}'}, r"holds in line 1 the key 'k' twice"),
    "a key twice, unmapped": ({"a.jsonl": '{"u": "x", "a": "1", "m": {"z": 1, "z": 2}}'}, r"the key 'z' twice"),
    "a key twice in a field": ({"a.json": '{"data": [{"u": "x", "a": "1", "a": "2"}]}'}, r"the key 'a' twice"),
    "a key twice by an escape": ({"a.jsonl": '{"u": "x", "a": "1", "\\u0061": "2"}'}, r"the key 'a' twice"),
    "NaN where text is wanted": ({"a.jsonl": '{"u": "x", "a": NaN}'}, r"holds in line 1 NaN, which JSON has not"),
    "NaN in a wanted list": ({"a.jsonl": '{"u": "x", "a": [{"v": Infinity}]}'}, r"holds in line 1 Infinity"),
    "a list a line": (
        {"a.jsonl": '[{"role": "user"}]\n[{"role": "user"}]\n'},
        r"line 2: Extra data: another list begins.*\"messages\"",
    ),
    "a list of lists": ({"a.json": '[[{"role": "user"}]]'}, r'in row 1, where a row is an object: .*"messages"'),
    "marks within a line": (
        {"a.jsonl": f'{{"u": "x", "a": "1"}}{BOM}{{"u": "y", "a": "2"}}'}, r"line 1: a mark of byte order",
    ),
    "two lists joined": (
        {"a.json": f'[{{"u": "x", "a": "1"}}]{BOM}[{{"u": "y", "a": "2"}}]'}, r"line 1: a mark of byte order",
    ),
    "some CR alone": ({"a.csv": "u,a\nx,1\ry,2\n"}, r"carriage return \(CR\) outside of quotes in line 2"),
    "the first line again": ({"a.csv": "u,a\nx,1\nu,a\ny,2\n"}, r"its first line again in line 3"),
    "text without a column": ({"a.csv": "u,a,,\nx,1,,lost\n"}, r"has 'lost' in line 2, in a column without a name"),
    "no names": ({"a.csv": ",,u,a\n1,2,x,y\n"}, r"has 2 columns without a name"),
    "a blank before quotes": ({"a.csv": 'u, a\n"x", "y z"\n'}, r"a blank before the quoted field ' \"y z\"' in line 2"),
    "a conversation by another mapping": (
        {"a.json": '{"messages": [{"role": "user", "content": "u"}]}'},
        r"one conversation, whose turns are in 'messages'.*columns: openai",
    ),
    "an object over several lines": (
        {"a.jsonl": '{\n "u": "x",\n "a": "1"\n}\n{\n "u": "y"\n}\n'},
        r"an object in line 1 that goes on in the next.*`jq -c",
    ),
    "an object over two lines": (
        {"a.jsonl": '{"u": "x",\n "a": "1"}\n'}, r"an object in line 1 that goes on in the next.*`jq -c",
    ),
    "a line that is cut off": (
        {"a.jsonl": '{"u": "x",\n{"u": "y", "a": "2"}\n'}, r"is broken in line 1: Expecting property name",
    ),
    "objects one after another": (
        {"a.json": '{\n "u": "x"\n}\n{\n "u": "y"\n}\n'},
        r"broken in line 4: Extra data: another object begins.*`jq -c",
    ),
    "text of Python": ({"a.jsonl": "{'u': 'x'}\n"}, r"line 1: .*write it with json.dumps"),
    "pandas' columns": ({"a.json": '{"u": {"0": "x", "1": "y"}, "a": {"0": "1", "1": "2"}}'}, TABLE),
    "pandas' columns in a line": ({"a.jsonl": '{"u": {"0": "x"}, "a": {"0": "1"}}'}, TABLE),
    "pandas' columns, indented": ({"a.json": '{\n"u": {"0": "x"},\n "a": {"0": "1"}}'}, TABLE),
    "columns as lists": ({"a.json": '{"u": ["x", "y"], "a": ["1", "2"]}'}, TABLE),
    "columns of conversations": ({"a.json": '{"messages": {"0": [{"role": "user"}], "1": [{"role": "user"}]}}'}, TABLE),
    "pandas' split": ({"a.json": '{"columns": ["u", "a"], "index": [0], "data": [["x", "1"]]}'}, TABLE),
    "pandas' index": ({"a.json": '{"0": {"u": "x", "a": "1"}, "1": {"u": "y", "a": "2"}}'}, TABLE),
    "rows by their ids": ({"a.json": '{"k": {"u": "x", "a": "1"}, "l": {"u": "y", "a": "2", "z": 1}}'}, TABLE),
    "lists within lists": (
        {"a.jsonl": '{"u": "x", "a": ' + "[" * 5000 + "]" * 5000 + "}"},
        r"line 1 more lists and objects .*: remove the row",
    ),
    "tabs by a comma's name": ({"a.csv": "u\ta\nx\t1\n"}, r"not separated by ',' but by '\\t': name it .tsv"),
    "commas by a tab's name": ({"a.tsv": "u,a\nx,1\n"}, r"not separated by '\\t' but by ',': name it .csv"),
    "quoted semicolons": ({"a.csv": '"u";"a, b"\n"x, y";"1"\n'}, r"not separated by ',', it seems, but by ';'"),
    "UTF-16": ({"a.csv": "u\ta\nx\t1\n".encode("utf-16")}, r"iconv -f UTF-16 "),
    "UTF-16 without a mark": (
        {"a.csv": "u\ta\nx\t1\n".encode("utf-16-le")}, r"NUL in its first two .* iconv -f UTF-16LE",
    ),
    "a sheet": ({"a.xlsx": "x"}, r"a.xlsx: .xlsx is not read: save the sheet as CSV"),
    "an Arrow file": ({"a.arrow": "x"}, r".arrow is not read: save it as Parquet"),
    "packed text": ({"a.txt.gz": "x"}, r".txt is not read: .* a chat is what is trained"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(tmp_path, name):
    files, message = REFUSED[name]
    with pytest.raises(StageError, match=message):
        opened(tmp_path, files, field="data" if "in a field" in name else None)


def test_a_quoted_blank_and_quotes_are_text(tmp_path):
    rows = opened(tmp_path, {"a.csv": 'u,a\nx," ""y"""\n'})
    assert rows[0] == {"u": "x", "a": ' "y"'}


@pytest.mark.parametrize(
    "odd", ["NaN", "-Infinity", "1e999", "123456789012345678901234", str(2**63), str(2**64 - 1), str(2**64)]
)
def test_numbers_that_no_column_holds_are_no_fault_where_nobody_reads_them(tmp_path, odd):
    lines = [f'{{"u": "x", "a": "1", "id": {odd}, "m": {{"k": [{odd}]}}}}', '{"u": "y", "a": "2", "id": 5, "m": null}']
    for place, files in (("lines", {"a.jsonl": "\n".join(lines)}), ("list", {"a.json": f"[{','.join(lines)}]"})):
        rows = opened(tmp_path / place, files)
        assert [{"u": row["u"], "a": row["a"]} for row in rows.select_columns(["u", "a"])] == UA
        assert odd in str(rows.data.column("id")[0].as_py()).replace(str(float("nan")), odd)


def table(**columns) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"u": ["x", "y"], "a": ["1", "2"]} | columns), sink)
    return sink.getvalue().to_pybytes()


UNREADABLE = {
    "a map": pyarrow.array([[("k", "v")], []], pyarrow.map_(pyarrow.string(), pyarrow.string())),
    "a map within": pyarrow.array(
        [[{"m": [("k", "v")]}], []],
        pyarrow.list_(pyarrow.struct([("m", pyarrow.map_(pyarrow.string(), pyarrow.string()))])),
    ),
    "of one width": pyarrow.array([b"0123456789abcdef"] * 2, pyarrow.binary(16)),
    "uuid": pyarrow.ExtensionArray.from_storage(
        pyarrow.uuid(), pyarrow.array([b"0123456789abcdef"] * 2, pyarrow.binary(16))
    ),
    "decimal": pyarrow.array([1, 2], pyarrow.decimal128(9, 2)),
    "interval": pyarrow.array([(1, 2, 3), None], pyarrow.month_day_nano_interval()),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in UNREADABLE if name != "interval"])
def test_columns_of_parquet_that_nobody_maps_need_not_be_readable(tmp_path, name):
    left: dict[str, str] = {}
    rows = opened(tmp_path, {"a.parquet": table(odd=UNREADABLE[name])}, left=left)
    assert [{"u": row["u"], "a": row["a"]} for row in rows.select_columns(["u", "a"])] == UA
    assert "odd" in rows.column_names or "is of the type" in left["odd"]


TEXT = pyarrow.array([b"1", b"2"])


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "dictionary"])
def test_text_that_parquet_stores_as_bytes_is_read(tmp_path, kind):
    column = TEXT.dictionary_encode() if kind == "dictionary" else TEXT.cast(getattr(pyarrow, kind)())
    rows = opened(tmp_path, {"a.parquet": table(a=column), "b.parquet": table()})
    assert [*rows] == UA + UA
    layouts.check(rows, "set", part({"user": "u", "assistant": "a"}).columns)


def test_bytes_in_turns_are_read_and_others_left_or_named(tmp_path):
    turns = pyarrow.array([[{"role": b"user", "content": "ä".encode()}]] * 2)
    rows = opened(tmp_path, {"a.parquet": table(m=turns, odd=pyarrow.array([b"\xff", b""]))}, wanted=["m"])
    assert rows[0]["m"] == [{"role": "user", "content": "ä"}] and rows[0]["odd"] == b"\xff"
    with pytest.raises(StageError, match="a column that is mapped stores bytes that are no text in UTF-8: decode them"):
        opened(tmp_path, {}, wanted=["odd"])


def test_a_mapped_column_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(StageError, match=r"the column 'odd' is of the type map<.*, which is not read: save it as"):
        opened(tmp_path, {"a.parquet": table(odd=UNREADABLE["a map"])}, wanted=["u", "odd"])


def test_shards_that_differ_in_what_nobody_maps(tmp_path):
    files = {"a.parquet": table(odd=[1, 2]), "b.parquet": table(odd=["p", "q"]), "c.parquet": table()}
    left: dict[str, str] = {}
    rows = opened(tmp_path, files, left=left)
    assert len(rows) == 6 and rows.column_names == ["u", "a"] and "has not one type" in left["odd"]
    with pytest.raises(StageError, match=r"b.parquet has string in the column 'odd' but a.parquet has int64"):
        opened(tmp_path, {}, wanted=["u", "odd"])


def test_the_keys_that_arrow_fills_in_are_not_trained_on(tmp_path):
    calls = [
        {"function": {"name": "quote", "arguments": {"ticker": "ABC"}}},
        {"function": {"name": "pay", "arguments": {"amount": 5, "to": {"iban": "X"}, "days": [1, None]}}},
        {"function": {"name": "now", "arguments": {}}},
    ]
    rows = [
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
        for call in calls
    ]
    lines = opened(tmp_path / "json", {"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}, ["messages"])
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    arrow = opened(tmp_path / "parquet", {"a.parquet": sink.getvalue().to_pybytes()}, ["messages"])
    assert "'amount': None" in str(arrow[0]) and "'amount'" not in str(bare(arrow[0]))
    for ours, theirs in zip(arrow, lines, strict=True):
        assert mapped(bare(ours), "openai") == mapped(theirs, "openai")


def test_a_key_with_null_that_json_has_is_kept(tmp_path):
    call = {"name": "f", "arguments": {"x": None}}
    row = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    (made,) = opened(tmp_path, {"a.jsonl": json.dumps(row)}, ["messages"])
    assert '"x": null' in mapped(made, "openai")[-1][1]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_the_same_in_either_composition(tmp_path, monkeypatch, form):
    other = "NFD" if form == "NFC" else "NFC"
    name, column = "회계장부.jsonl", "질문"
    folder = tmp_path / "data" / unicodedata.normalize(form, "자료")
    folder.mkdir(parents=True)
    row = {unicodedata.normalize(form, column): "x", "a": "1"}
    (folder / unicodedata.normalize(form, name)).write_text(json.dumps(row, ensure_ascii=False) + "\n")
    monkeypatch.chdir(tmp_path)
    there = unicodedata.normalize(other, "data/자료")
    for source in (
        Source(path=f"{there}/{unicodedata.normalize(other, name)}"),
        Source(path=there, files=[unicodedata.normalize(other, "회계*.jsonl")]),
    ):
        out = tmp_path / f"out-{source.files is None}" / "set"
        out.mkdir(parents=True)
        raw_stage.copy(source, "set", out)
        wanted = [unicodedata.normalize(other, column), "a"]
        rows = raw_files.open_rows(out, "set", source, None, wanted)
        assert rows[0] == dict(zip(wanted, ("x", "1"), strict=True))


def test_blanks_at_a_names_ends_are_shown(tmp_path):
    rows = opened(tmp_path, {"a.csv": "u, a\nx,1\n"})
    with pytest.raises(StageError, match=r"no column 'a'; there are u, ' a'\n"):
        layouts.check(rows, "set", part({"user": "u", "assistant": "a"}).columns)
