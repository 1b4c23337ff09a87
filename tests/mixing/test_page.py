"""The page to look at, and `make show`: what the model sees, whatever stands in the data."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pytest

from ingot.chat import encoding, token_files
from ingot.console.progress import StageError
from ingot.mixing import page, show
from tests.conftest import ROOT, tokenise

HOSTILE = [
    "</pre></details><script>alert(1)</script><img src=x onerror=alert(1)><style>body{display:none}</style>",
    '"><a href="javascript:alert(1)">x</a> {{ figures }} {% raw %} &amp; <!--',
    "rtl \u202e hidden \u202c, zero\u200bwidth, \x1b[31mred\x1b]0;title\x07, nul \x00, c1 \x9b, \u2028 line",
    "👩‍👩‍👧 🇰🇷 네 👍🏽 עברית مرحبا",
    "long " * 3000,
]
SOURCE = {
    "raw": 10, "train": 6, "eval": 1, "repeated": 0, "not_drawn": 1, "asked": 9,
    "dropped": {HOSTILE[0]: 1, "empty user turn": 1},
    "train_tokens": 300, "trained_tokens": 100, "eval_tokens": 50, "lengths": [0, 3, 3, 0],
}  # fmt: skip
FIGURES = {
    "train": 6, "eval": 1, "train_tokens": 300, "trained_tokens": 100, "dropped": 2, "sources": {"set": SOURCE},
    "max_seq_length": 160, "lengths": {"upto": [40, 80, 120, 160], "rows": [0, 3, 3, 0]},
    "packing": {"sequences": 2, "filled": 0.9375}, "too_long": {"rows": 1234, "tokens": 5678, "trained": 90},
    "examples": [{"source": "set", "row": 7, "reason": HOSTILE[0], "detail": HOSTILE[2], "text": HOSTILE[1]}],
}  # fmt: skip


class Read(HTMLParser):
    """Tags, attributes and text of a page; tags are held to be closed in their order."""

    VOID = ("meta", "br", "img")

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text, self.marked = "", ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += "" if tag in ("span", "mark", "bdi") else " "

    def handle_data(self, data):
        self.text += data
        if "mark" in self.open:
            self.marked += data


@pytest.fixture
def dataset(tmp_path, base, monkeypatch) -> Path:
    """A built dataset of hostile rows, as the verbs find it."""
    rows = [
        {"source": "set", "row": number, "tokens": 1, "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": text},
            {"role": "assistant", "content": text},
        ]}
        for number, text in enumerate(HOSTILE)
    ]  # fmt: skip
    folder = tmp_path / "build/dataset"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="\n"
    )
    (folder / "eval.jsonl").write_text("")
    (folder / "chat_template.jinja").write_text(encoding.jinja("chatml"))
    (tmp_path / "build/base").symlink_to(base)
    tokenise(folder, base)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return folder / "train"


@pytest.fixture
def written(dataset, tokenizer, monkeypatch) -> str:
    monkeypatch.setattr(page, "EACH", len(HOSTILE))
    examples = page.seen(dataset, tokenizer, ["set", "with no row"])
    page.write(FIGURES, examples, Path("dataset.html"))
    return Path("dataset.html").read_bytes().decode()


def test_data_is_text_on_the_page_and_nothing_else(written):
    read = Read(written)
    ours = (
        "html head meta title style body h1 h2 p div b span i bdi table thead tbody tfoot tr th td "
        "details summary pre mark"
    )
    assert read.tags <= {*ours.split()}
    assert not [name for name in read.attributes if name.startswith("on") or name in ("src", "href", "srcset")]
    assert "url(" not in written and "@import" not in written and "http://" not in written and "https://" not in written
    assert HOSTILE[0] in read.text and HOSTILE[1] in read.text
    assert not [char for char in written if (char < " " and char not in "\n\t") or char in "\u202e\u200b\u2028\x7f\x9b"]
    assert "‹U+202E› hidden" in read.text and "␛[31mred" in read.text and "nul ␀" in read.text


def test_the_page_says_what_is_to_be_known(written):
    text = " ".join(Read(written).text.split())
    for said in (
        "33.3 % of them trained", "set 10 2 1 9 1 6 0 300 100.0 % 33.3 %", "1,234 rows were longer than max_seq_length",
        "14.3 % of the mix is held out", "5,678 of their tokens",
        "Packed, the rows make 2 sequences of 160 tokens, 93.8 % full",
        "6 of them would be 31.2 % full", "1 · empty user turn · set 1", "set, raw row 7",
    ):  # fmt: skip
        assert said in text, said


def test_a_set_that_gives_less_than_is_asked_is_marked(written, tmp_path):
    assert '<td class="lost">9</td>' in written
    enough = FIGURES | {"sources": {"set": SOURCE | {"asked": 7}}}
    page.write(enough, [], tmp_path / "enough.html")
    assert "<td>7</td>" in (tmp_path / "enough.html").read_text()


def test_what_is_trained_is_marked_and_no_character_stands_twice(written, tokenizer):
    marked = Read(written).marked
    for text in HOSTILE[:4]:
        assert page.visible(text) + "<|im_end|>" in marked
    assert "Be brief." not in marked
    assert "more characters" in written, "a conversation that is too long for the page is cut, and it says so"
    for text in HOSTILE:
        encoded = encoding.encode(
            tokenizer, [{"role": "user", "content": text}], encoding.jinja("chatml"), "<|im_end|>"
        )
        assert "".join(piece.text for piece in page.pieces(tokenizer, encoded)) == encoded.text


def test_the_same_figures_make_the_same_bytes(written, dataset, tokenizer):
    shuffled = copy.deepcopy(FIGURES)
    shuffled["sources"]["set"]["dropped"] = dict(reversed(SOURCE["dropped"].items()))
    page.write(shuffled, page.seen(dataset, tokenizer, ["with no row", "set"]), Path("again.html"))
    assert Path("again.html").read_text(encoding="utf-8") == written


def test_nothing_dropped_and_nothing_trained_on_is_a_page_too(tmp_path):
    empty = FIGURES | {"train": 0, "train_tokens": 0, "trained_tokens": 0, "sources": {}, "examples": [], "dropped": 0}
    empty |= {"packing": {"sequences": 0, "filled": 0.0}, "lengths": {"upto": [80, 160], "rows": [0, 0]}}
    empty |= {"too_long": {"rows": 0, "tokens": 0, "trained": 0}}
    page.write(empty, [], tmp_path / "empty.html")
    assert "Nothing was." in Read((tmp_path / "empty.html").read_text()).text


def test_show_prints_text_tokens_and_what_is_trained(dataset, tokenizer, capsys):
    show.main("train:2")
    said = capsys.readouterr().out
    assert "train:2  set, raw row 2" in said
    assert "\x1b[31m" not in said and "\x07" not in said and "\x00" not in said, (
        "no escape of the data reaches the terminal"
    )
    assert "‹U+202E›" in said and "␛[31mred" in said
    show.main("train:3")
    said = capsys.readouterr().out
    text = said.split("\n", 2)[2].split("<|im_end|>\n     ")[0]
    assert text.count("👍🏽") == 2, "in the question and in the answer"
    ids = [int(line[:7]) for line in said.splitlines() if line[8:11] in ("[0]", "[1]")]
    assert tokenizer.decode(ids).count("👍🏽") == 2
    assert any(line[8:11] == "[1]" and "<|im_end|>" in line for line in said.splitlines())


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("train:5", r"ROW=train:5: build/dataset/train.jsonl has 5 rows, train:0 to train:4"),
        ("eval:0", r"ROW=eval:0: build/dataset/eval.jsonl has no rows"),
        ("train:-1", r"ROW=train:-1: write train:N or eval:N, counting from 0"),
        ("train", r"write train:N or eval:N"),
        ("test:0", r"write train:N or eval:N"),
        (
            "train:99999999999999999999",
            r"ROW=train:99999999999999999999: build/dataset/train.jsonl has 5 rows, train:0 to",
        ),
        ("train:" + "9" * 5000, r"^ROW=train:9{74}: build/dataset/train.jsonl has 5 rows"),
        ("train:1\nx", r"^ROW=train:1\\nx: write train:N"),
        ("train:١", r"^ROW=train:\\u0661: write train:N"),
        ("train:1_0", r"write train:N or eval:N"),
        ("train:1\udcff", r"^ROW=train:1\\udcff: write"),
    ],
)
def test_a_row_that_is_not_there(dataset, place, message):
    with pytest.raises(StageError, match=message):
        show.main(place)


def test_a_terminal_that_knows_ascii_alone(dataset):
    settings = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "ingot.mixing.show", "train:3"]
    ran = subprocess.run(command, env=settings, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    assert "\\ub124" in ran.stdout.decode("ascii")


def test_what_show_needs_is_named(dataset):
    Path("build/base").unlink()
    with pytest.raises(StageError, match="build/base: not there, and its tokenizer is needed: run `dvc repro base`"):
        show.main("train:0")
    Path("build/dataset/train.arrow").unlink()
    with pytest.raises(StageError, match=r"train.arrow: not built yet: run `dvc repro dataset`"):
        show.main("train:0")
    shutil.rmtree("build/dataset")
    with pytest.raises(StageError, match=r"train.jsonl: not built yet: run `dvc repro dataset`"):
        show.main("train:0")


@pytest.mark.parametrize("damage", [lambda data: data[:-900], lambda data: b"garbage", lambda data: b"", None])
def test_show_names_a_damaged_token_file(dataset, damage):
    path = Path("build/dataset/train.arrow")
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        with token_files.Writer(path):  # whole, and of no rows
            pass
    with pytest.raises(
        StageError, match=r"(?s)^build/dataset/train.arrow: .*hint: remove it, then run `dvc repro dataset`"
    ):
        show.main("train:4")


def test_a_row_of_a_large_file_is_found_without_loading_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("build/dataset").mkdir(parents=True)
    line = json.dumps({"source": "set", "row": 1, "messages": "x" * 1000}) + "\n"
    with Path("build/dataset/train.jsonl").open("w") as file:
        file.writelines(line for _ in range(200_000))
        file.write(line.replace(": 1", ": 2"))
    with token_files.Writer(Path("build/dataset/train.arrow")) as file:
        for number in range(200_001):
            file.add(f"{number}" * 100, numpy.full(20, number), [(1, 3)])
    program = (
        "import resource, sys; from ingot.mixing import show; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "row, encoded = show.find('train:200000'); assert row['row'] == 2 and encoded.ids == [200_000] * 20;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 20_000, "kB, of a file of 200 MB"
