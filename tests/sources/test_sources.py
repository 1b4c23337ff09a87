"""Local files and folders through raw and back as rows: every kind, packed or not, and what is wrong with them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingot.console.progress import StageError
from ingot.sources import json_rows, raw_files, readers
from ingot.sources.params import Source
from stages import raw
from tests.conftest import NOBODY, ROOT

ROWS = [
    {"u": "NA", "a": "née \u2028 null", "n": "007"},
    {"u": "2024-01-02", "a": "", "n": "1e5"},
    {"u": 'a "quoted", one\r\nover lines', "a": "nul \x00, 👩‍👩‍👧, שלום", "n": "True"},
]


def csv_text(mark: str = ",", end: str = "\n") -> str:
    quoted = [['"' + value.replace('"', '""') + '"' for value in row.values()] for row in ROWS]
    return end.join(mark.join(values) for values in [["u", "a", "n"], *quoted]) + end


def parquet_bytes() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    target = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), target)
    return target.getvalue()


JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
KINDS = {
    "a.jsonl": JSONL.encode(),
    "a.ndjson": JSONL.replace("\n", "\r\n").rstrip().encode(),
    "lines.json": JSONL.replace("\n", "\n\n").encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + JSONL.encode(),
    "a.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "bom.json": b"\xef\xbb\xbf\n" + json.dumps(ROWS).encode(),
    "a.csv": csv_text().encode(),
    "windows.csv": b"\xef\xbb\xbf" + csv_text(end="\r\n").encode(),
    "A.TSV": csv_text("\t").encode(),
    "a.parquet": parquet_bytes(),
}


def zipped(**files: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return target.getvalue()


def zstd(data: bytes) -> bytes:
    import pyarrow

    target = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(target, "zstd") as stream:
        stream.write(data)
    return target.getvalue().to_pybytes()


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Write files under data/set, take them through the raw stage, and read their rows."""
    monkeypatch.chdir(tmp_path)

    def make(contents: dict[str, bytes], **more):
        for name, data in contents.items():
            (Path("data/set") / name).parent.mkdir(parents=True, exist_ok=True)
            (Path("data/set") / name).write_bytes(data)
        source = Source(path="data/set", **more)
        out = Path("build/raw/set")
        out.mkdir(parents=True)
        raw.copy(source, "set", out)
        before = {path for path in tmp_path.rglob("*")}
        rows = raw_files.open_rows(out, "set", source, Path("build"))
        assert {path for path in tmp_path.rglob("*")} == before, "nothing is left behind"
        return rows

    return make


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_read_as_it_is(made, name):
    assert list(made({name: KINDS[name]})) == ROWS


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "windows.csv", "A.TSV", "a.parquet"])
def test_packed_files_are_read_alike(made, name, packing):
    assert list(made({name + packing: PACKED[packing](KINDS[name])})) == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_zip_is_read_member_by_member(made, name):
    members = {"b__" + name: KINDS[name], "a__" + name: KINDS[name], "__MACOSX__._x": b"junk", ".hidden": b"x"}
    assert list(made({f"set{Path(name).suffix}.zip": zipped(**members)})) == ROWS + ROWS


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_packed_files_in_a_zip(made, name, packing):
    assert list(made({f"set{Path(name).suffix}.zip": zipped(**{name + packing: PACKED[packing](KINDS[name])})})) == ROWS


def test_names_in_a_zip_become_no_paths(made, tmp_path):
    members = {"..__..__..__evil.jsonl": KINDS["a.jsonl"], "__etc__evil.jsonl": KINDS["a.jsonl"]}
    assert len(made({"set.jsonl.zip": zipped(**members)})) == 6
    assert not list(tmp_path.parent.rglob("evil*"))


def test_files_of_a_folder_are_read_in_the_order_of_their_names(made):
    files = {f"{name}.jsonl": json.dumps({"u": name}).encode() for name in ("b", "a", "c/a", "[x]*", "a b", "한글")}
    assert [row["u"] for row in made(files)] == ["[x]*", "a b", "a", "b", "c/a", "한글"]


def test_what_stands_beside_the_rows_about_them_is_not_read(made):
    about = {name: b"# About" for name in ("README.md", "README", "readme.txt", "LICENSE", "docs/CHANGELOG.md")}
    assert len(made({"a.jsonl": KINDS["a.jsonl"]} | about)) == 3


@pytest.mark.parametrize("files", [{"NOTES.md": b"# x", "a.jsonl": KINDS["a.jsonl"]}, {"README.md": b"# x"}])
def test_other_documents_and_one_alone_are_told_for_what_they_are(made, files):
    with pytest.raises(StageError, match=rf"{next(iter(files))}: \.md is not read: a document is no conversation"):
        made(files)


def test_columns_keep_what_they_hold(made):
    """What `datasets` makes points in time, or fills up with the keys of other rows, stays as it is."""
    rows = [
        {"date": "2024-01-02", "n": 1, "f": 0.1, "b": True, "mixed": 1,
         "call": {"name": "a", "arguments": {"x": [1, None]}}},
        {"date": "2024-01-03T00:00:00Z", "n": 2**62, "f": 2.5, "b": None, "mixed": "1",
         "call": {"arguments": "{}"}, "late": "x"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "id": 3}]},
    ]  # fmt: skip
    read = made({"a.jsonl": "\n".join(map(json.dumps, rows)).encode()})
    assert [{key: value for key, value in row.items() if value is not None} for row in read] == [
        {key: value for key, value in row.items() if value is not None} for row in rows
    ]
    assert {name: getattr(kind, "dtype", "json") for name, kind in read.features.items()} == {
        "date": "string", "n": "int64", "f": "float64", "b": "bool", "mixed": "json", "call": "json", "late": "string",
        "messages": "json",
    }  # fmt: skip


def test_a_field_may_be_a_book(made):
    book = "x" * 3_000_000 + "\n"
    assert made({"a.csv": f'u,a\n"{book}","y"\n'.encode()})[0]["u"] == book
    many = [{"u": str(i) + "y" * 100_000} for i in range(300)]  # more than one batch
    assert made_again(made, {"a.jsonl": "\n".join(map(json.dumps, many)).encode()}) == many


def made_again(made, files):
    import shutil

    shutil.rmtree("data")
    shutil.rmtree("build")
    return list(made(files))


def test_half_a_character_becomes_the_sign_for_what_could_not_be_read(made):
    rows = rb'{"u": "cut \ud83d", "v": {"w": "\udc00"}}' + b"\n" + rb'{"u": "whole \ud83d\ude00", "v": null}'
    assert list(made({"a.jsonl": rows})) == [
        {"u": "cut \ufffd", "v": {"w": "\ufffd"}},
        {"u": "whole 😀", "v": None},
    ]


def test_the_rows_in_one_object(made):
    whole = json.dumps({"version": "1", "data": ROWS, "other": [{}]}).encode()
    assert list(made({"a.json": whole}, field="data")) == ROWS


def test_patterns_say_which_files_are_meant(made):
    files = {"a.jsonl": KINDS["a.jsonl"], "LICENSE": b"MIT", "README.md": b"# x", "deep/b.jsonl": KINDS["a.jsonl"]}
    assert len(made(files, files=["**/*.jsonl"])) == 6
    assert sorted(path.name for path in Path("build/raw/set").rglob("*.*")) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("name", ["X.JSONL", "X.CSV", "X.PARQUET", "X.PARQUET.GZ", "X.Jsonl.Gz"])
def test_suffixes_in_capitals(made, name):
    data = KINDS["a" + Path(name.lower().removesuffix(".gz")).suffix]
    data = gzip.compress(data) if name.lower().endswith(".gz") else data
    assert list(made({name: data, "NOTES.TXT": b"x"}, files=["X.*"])) == ROWS


def parquet_of(**columns) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    target = io.BytesIO()
    parquet.write_table(pa.table(columns), target)
    return target.getvalue()


def test_shards_of_other_columns_and_widths_are_one_set(made):
    import pyarrow as pa

    turn = [{"from": "human", "value": "q"}]
    files = {
        "a.parquet": parquet_of(u=["x"], n=pa.array([1], pa.int32()), t=[turn]),
        "b.parquet": parquet_of(t=[[{"value": "r", "from": "gpt", "id": "7"}]], u=pa.array(["y"], pa.large_string())),
        "c.parquet": parquet_of(n=[2**40], u=pa.nulls(1)),
    }
    assert list(made(files)) == [
        {"u": "x", "n": 1, "t": [{"from": "human", "value": "q", "id": None}]},
        {"u": "y", "n": None, "t": [{"from": "gpt", "value": "r", "id": "7"}]},
        {"u": None, "n": 2**40, "t": None},
    ]


def test_shards_and_groups_without_rows(made):
    import pyarrow as pa
    from pyarrow import parquet

    target, table = io.BytesIO(), pa.table({"u": ["x", "y"]})
    with parquet.ParquetWriter(target, table.schema) as file:
        file.write_table(table.slice(0, 0))
        file.write_table(table)
    files = {"a.parquet": NO_ROWS, "b.parquet": target.getvalue(), "c.parquet": NO_ROWS}
    assert list(made(files)) == [{"u": "x"}, {"u": "y"}]


def test_shards_that_no_type_holds_are_named(made):
    files = {"a.parquet": parquet_of(u=["x"]), "b.parquet": parquet_of(u=["y"]), "c.parquet": parquet_of(u=[7])}
    with pytest.raises(
        StageError, match=r"c.parquet has int64 in the column 'u' but a.parquet has string: give it one type"
    ):
        made(files)


def test_names_that_are_not_utf_8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs(b"data/set/caf\xe9")
    Path(os.fsdecode(b"data/set/caf\xe9/a.jsonl")).write_text(JSONL)
    with pytest.raises(StageError, match=r"data/set holds caf\\udce9, a name that is not UTF-8: rename it"):
        raw.copy(Source(path="data/set"), "set", tmp_path)
    with pytest.raises(StageError, match=r"no such file or folder; data/set/ holds caf\\udce9$"):
        raw.copy(Source(path="data/set/cafe"), "set", tmp_path)


def test_hidden_files_are_left_out_and_counted(made, capsys):
    rows = made({"a.jsonl": KINDS["a.jsonl"], ".a.jsonl.swp": b"junk", ".git/config": b"x", "b/.DS_Store": b"x"})
    assert len(rows) == 3
    assert "data/set: hidden files and folders are left out: 3" in capsys.readouterr().out


def no_rows() -> bytes:
    import pyarrow as pa

    return parquet_of(u=pa.array([], pa.string()))


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 8]) + data[middle + 8 :]


NO_ROWS = no_rows()
CP949 = "u,a\n질문,답\n".encode("cp949")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": b""}, r"data/set/a.jsonl is empty"),
        ({"a.txt": b"x"}, r"a.txt: .txt is not read: it holds text without questions and answers.*write .jsonl"),
        ({"NOTES": b"x", "a.csv": CP949}, r"found without a suffix \(NOTES\), .csv \(a.csv\). Name those"),
        ({"a.jsonl": JSONL.encode(), "b.csv": b"u\nx\n"}, r"found .csv \(b.csv\), .jsonl \(a.jsonl\)"),
        ({"a.csv": CP949}, r"a.csv is not UTF-8: line 2 holds the byte 0xc1. Convert it: iconv -f CP949 -t UTF-8"),
        ({"a.csv": "u,a\nx,y\n".encode("utf-16")}, r"a.csv is not UTF-8: line 1 .* iconv -f UTF-16"),
        ({"a.jsonl": b'{"u": "\xff"}\n'}, r"a.jsonl is not UTF-8: line 1 holds the byte 0xff"),
        ({"a.csv": b"u,a\nx,y\nx,y,z\n"}, r"a.csv has 3 fields in line 3 but 2 columns \(u, a\)"),
        ({"a.csv": b"u,a\nx\n"}, r"a.csv has 1 fields in line 2 but 2 columns"),
        ({"a.csv": b'u,a\nx,"y\n'}, r"a.csv is broken in line 2: unexpected end of data"),
        ({"a.csv": b'u,a\nx,"y"z\n'}, r"a.csv is broken in line 2: ',' expected after '\"'"),
        ({"a.csv": b"u,u\nx,y\n"}, r"a.csv names the column 'u' twice"),
        ({"a.csv": b"u,a\n"}, r"no rows were found"),
        ({"a.jsonl": b'{"u": "x"}\n{"u": \n'}, r"a.jsonl is broken in line 2: Expecting value"),
        ({"a.jsonl": b'{"u": "x"} {"u": "y"}\n'}, r"a.jsonl is broken in line 1: Extra data"),
        ({"a.jsonl": b'{"u": "x"}\n\n["y"]\n'}, r'a.jsonl has \["y"\] in line 3, where a row is an object'),
        ({"a.json": b'[{"u": "x"},\n {"u": "y"\n'}, r"a.json is broken in line 3: Expecting ',' delimiter"),
        ({"a.json": b'[{"u": "x"}] []'}, r"a.json is broken in line 1: Extra data"),
        ({"a.json": b'["a", "b"]'}, r'a.json has "a" in row 1, where a row is an object'),
        ({"a.json": b'{"data": [{"u": "x"}]}'}, r"a.json is one object.*: say which one.*field: data"),
        ({"a.json": b'{\n "data": [{"u": "x"}],\n "b": [{}]}'}, r"a.json is one object.* field: data \(data, b\)"),
        ({"a.json": b'"x"'}, r"a.json is one value and no list of objects"),
        ({"a.json": b"[]"}, r"no rows were found"),
        ({"a.jsonl": b'{"u": NaN}'}, r"a.jsonl holds in line 1 NaN, which JSON has not"),
        ({"a.jsonl": b'{"u": 123456789012345678901}'},
         r"a.jsonl holds in line 1 the number 123456789012345678901, which is"),
        ({"a.jsonl": b'{"u": ' + b"9" * 5000 + b"}"}, r"a.jsonl holds in line 1 the number 99999.*: quote it, as text"),
        ({"a.jsonl": b'{"u": {"v": 1e999}}'},
         r"a.jsonl holds in line 1 the number 1e999, which is more than a float holds"),
        ({"a.jsonl": b'{"u": 1}\n\n{"u": -Infinity}'},
         r"a.jsonl holds in line 3 -Infinity, which JSON has not: write null"),
        ({"a.json": b'[{"u": 1},\n {"u": NaN}]'}, r"a.json holds in row 2 NaN, which JSON has not"),
        ({"a.json": b'[{"u": 1}, {"u": 1e999}]'}, r"a.json holds in row 2 the number 1e999"),
        ({"a.jsonl": b"{}\n" + b'{"u": ' + b"[" * 9999 + b"]" * 9999 + b"}"},
         r"a.jsonl holds in line 2 more lists and"),
        ({"a.jsonl": b'null\n{"u": "x"}\n'}, r"a.jsonl has null in line 1, where a row is an object"),
        ({"a.jsonl": b'{"u": "x"}\nnull\n'}, r"a.jsonl has null in line 2, where a row is an object"),
        ({"a.jsonl": b" \n\n\t\n"}, r"a.jsonl holds nothing but blanks"),
        ({"a.json": b"\n"}, r"a.json holds nothing but blanks"),
        ({"a.csv": b"u;a\nx;y, z\n"},
         r"a.csv has one column, 'u;a': it is not separated by ',' but by ';': save it with"),
        ({"a.csv": b"u\ta\nx\ty\n"}, r"a.csv has one column, .*: name it .tsv"),
        ({"a.jsonl": b'{"\\ud83d": "x"}'}, r"cannot be read: 'utf-8' codec can't encode"),
        ({"a.jsonl": b"[" * 100_000},
         r"a.jsonl holds in row 1 more lists and objects within each other than can be read"),
        ({"a.parquet": NO_ROWS, "b.parquet": NO_ROWS}, r"no rows were found in it"),
        ({"a.parquet": b"PAR1 no"}, r"a.parquet cannot be read as Parquet"),
        ({"a.jsonl.gz": gzip.compress(JSONL.encode())[:40]}, r"a.jsonl.gz cannot be read: Compressed file ended"),
        ({"a.jsonl.gz": damaged(gzip.compress(JSONL.encode() * 99))}, r"a.jsonl.gz cannot be read: "),
        ({"a.parquet.gz": b"no gzip"}, r"a.parquet.gz cannot be read: Not a gzipped file"),
        ({"a.jsonl.gz": b"no gzip"}, r"a.jsonl.gz cannot be read: Not a gzipped file"),
        ({"a.jsonl.xz": b"no xz at all"}, r"a.jsonl.xz cannot be read"),
        ({"a.jsonl.zst": b"no zstd at all"}, r"a.jsonl.zst cannot be read"),
        ({"a.jsonl.zip": b"no zip"}, r"a.jsonl.zip cannot be read: File is not a zip file"),
        ({"a.zip": zipped(**{"a.jsonl": b"{}"})}, r"a .zip that does not say \(NAME.jsonl.zip does\)"),
        ({"a.jsonl.zip": zipped(**{"a.jsonl": b"{}", "b.csv": b"u"})}, r"found .csv \(b.csv\), .jsonl \(a.jsonl\)"),
        ({"a.zip.zip": zipped(**{"a.jsonl.zip": b"x"})}, r"found a .zip that does not say"),
        ({"a.jsonl.zip": zipped(**{"b.jsonl.zip": b"x"})},
         r"a.jsonl.zip holds b.jsonl.zip, a zip within a zip: unpack"),
        ({"a.jsonl.zip": zipped(**{"b.jsonl.gz": b"x"})}, r"a.jsonl.zip cannot be read: Not a gzipped file"),
        ({"a.tar.gz": b"x"}, r"found .tar \(a.tar.gz\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_fix(made, files, message):
    with pytest.raises(StageError, match=message) as error:
        made(files)
    assert str(error.value).startswith("raw.datasets.set")


ITEMS = [
    12, 3.5e-7, -1, True, None, "a \U0001f600 \\ \" \ud83d", "\n", [], {},
    {"k": [1, {"v": "é" * 40}]}, 12345678901234567890.5, 7
]  # fmt: skip


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1 << 20])
def test_an_array_is_read_in_pieces_as_it_is_in_whole(monkeypatch, piece):
    monkeypatch.setattr(readers, "PIECE", piece)
    for text in (
        json.dumps(ITEMS), json.dumps(ITEMS, indent=2), json.dumps(ITEMS, ensure_ascii=False, separators=(",", ":"))
    ):  # fmt: skip
        stream = io.BytesIO(("\ufeff \n" + text + "\n").encode("utf-8", "surrogatepass").replace(b"\xed\xa0\xbd", b"x"))
        whole = json.loads(stream.getvalue().decode("utf-8-sig"))
        assert list(json_rows._items(readers.Lines(stream, "utf-8"))) == whole
    for text in (
        '[{"u": 1},\n {"u": 2', '[{"u": 1},\n {"u" 2}, {}]', '[1,\n\n2 3]', '[1] \n x', '["a\nb"]', '[1,\n]', '[tru]',
        '["a\\x"]', "[", '[{"u": "' + "x" * 100 + '"},\n{"u": "y',
    ):  # fmt: skip
        with pytest.raises(json.JSONDecodeError) as error:
            json.loads(text)
        told = rf"^is broken in line {error.value.lineno}: .* \(column {error.value.colno}\)$"
        with pytest.raises(readers.Unreadable, match=told):
            list(json_rows._items(readers.Lines(io.BytesIO(text.encode()), "utf-8")))


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
def test_lines_are_the_same_in_pieces(monkeypatch, piece):
    monkeypatch.setattr(readers, "PIECE", piece)
    text = "\n a\r\n\nüber \u2028 😀\nlast"
    for encoding, data in (("utf-8", "\ufeff" + text), ("UTF-16", text), ("cp949", "질문\n\n답")):
        lines = readers.Lines(io.BytesIO(data.encode(encoding)), encoding)
        assert lines.opening() == data.removeprefix("\ufeff").lstrip()[0]
        assert list(lines) == io.StringIO(data.removeprefix("\ufeff"), newline="\n").readlines()
        assert lines.number == data.count("\n") + 1
    with pytest.raises(readers.Unreadable, match="line 3 holds the byte 0xff"):
        list(readers.Lines(io.BytesIO("é\n\n é".encode() + b"\xff"), "utf-8"))
    with pytest.raises(readers.Unreadable, match="cannot be read as hex, which its README names"):
        readers.Lines(io.BytesIO(b"00"), "hex")


def test_a_large_array_takes_little_memory(tmp_path):
    """In a process of its own, whose memory is measured; read whole, it took five times the file's size."""
    path, one = tmp_path / "a.json", json.dumps({"u": "x" * 1000})
    with path.open("w") as file:
        file.write('[{"u": "😀"}' + f", {one}" * 60_000 + "]")
    code = (
        "import sys; from pathlib import Path, PurePosixPath; from ingot.sources import json_rows, readers; "
        "lines = readers.Lines(open(sys.argv[1], 'rb'), 'utf-8'); "
        "print(sum(1 for _ in json_rows.json_rows(lines, PurePosixPath('a.json'), {})), "
        "Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 60_001 and kilobytes < 100_000


def test_what_is_no_plain_file_is_refused(made, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big.jsonl").write_text(JSONL)
    folder = Path("data/set")
    folder.mkdir(parents=True)
    (folder / "linked.jsonl").symlink_to(outside / "big.jsonl")
    assert len(made({})) == 3, "a linked file is taken: DVC hashes its content, too"
    copied = Path("build/raw/set/linked.jsonl")
    assert not copied.is_symlink()
    copied.unlink()
    copied.parent.rmdir()
    for spoil, message in (
        (lambda: (folder / "more").symlink_to(outside), r"data/set/more is a link to a folder; link the files in it"),
        (lambda: (folder / "gone.jsonl").symlink_to("nowhere"), r"gone.jsonl is a link to nowhere, which is not there"),
        (lambda: os.mkfifo(folder / "pipe.jsonl"), r"pipe.jsonl is no file but a device, pipe or socket"),
    ):
        spoil()
        with pytest.raises(StageError, match=message):
            made({})
        for path in folder.iterdir():
            path.unlink()
        for path in copied.parent.iterdir():
            path.unlink()
        copied.parent.rmdir()
    folder.rmdir()
    folder.symlink_to(outside)
    with pytest.raises(StageError, match="data/set is a link to a folder"):
        made({})


def test_a_file_that_changes_while_it_is_copied_is_refused(tmp_path, monkeypatch):
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_text(JSONL)
    copyfile = raw.shutil.copyfile

    def meanwhile(*paths):
        copyfile(*paths)
        with source.open("a") as file:
            file.write("{}\n")

    monkeypatch.setattr(raw.shutil, "copyfile", meanwhile)
    with pytest.raises(StageError, match=r"a.jsonl changed while it was copied; run again when nothing writes to it"):
        raw.copy_whole(source, target, "raw.datasets.set.path")


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/set/closed").mkdir(parents=True)
    Path("data/set/a.jsonl").write_text(JSONL)
    Path("data/set/a.jsonl").chmod(0)
    Path("out").mkdir()
    for path in (tmp_path, tmp_path / "out"):
        path.chmod(0o777)
    user = os.geteuid()
    os.seteuid(user or NOBODY)  # root reads everything
    try:
        with pytest.raises(StageError, match=r"data/set/a.jsonl cannot be copied: Permission denied"):
            raw.copy(Source(path="data/set"), "set", Path("out"))
        os.seteuid(user)
        Path("data/set/closed").chmod(0)
        os.seteuid(user or NOBODY)
        with pytest.raises(
            StageError, match=r"data/set/closed: cannot be read \(Permission denied\); chmod -R u\+rX it"
        ):
            raw.copy(Source(path="data/set"), "set", Path("out"))
    finally:
        os.seteuid(user)
        Path("data/set/closed").chmod(0o700)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "data/x", "split": "train"}, "`split` belongs to `repo`; a folder has `files`"),
        ({"path": "data/x", "revision": "0" * 40}, "a local path is pinned by its content"),
        ({"path": "data/../x"}, "must lie under data/"),
        ({"path": "data/x", "files": ["../*.json"]}, "leads out"),
        ({"path": "data/x", "files": []}, "at least 1 item"),
        ({"repo": "a/b", "revision": "0" * 40}, "needs either `split`, such as train, or `files`"),
        ({"repo": "a/b", "revision": "0" * 40, "split": "train", "files": ["*"]}, "needs either `split`"),
        ({"repo": "a/b", "revision": "0" * 40, "files": ["*"], "config": "x"}, "`config` belongs to `split`"),
        ({"repo": "a/b", "revision": "0" * 40, "split": "train[:10]"}, "split"),
        ({"repo": "a/b", "split": "train"}, "run `make pin`"),
    ],
)
def test_a_source_that_contradicts_itself(source, message):
    with pytest.raises(ValidationError, match=message):
        Source(**source)


def test_the_samples_of_the_demo_are_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "data/samples").iterdir()):
        assert raw_files.kind_of([path.name], path.stem) in ("json", "csv")
