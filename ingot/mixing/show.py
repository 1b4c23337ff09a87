"""`make show ROW=train:0`: one conversation as the model sees it: text, token ids, and which of them are trained."""

from __future__ import annotations

import json
import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from rich.text import Text

from ingot.chat import encoding, token_files
from ingot.chat.encoding import Encoded
from ingot.console.messages import command
from ingot.console.progress import StageError, console
from ingot.mixing import page

DATASET, BASE = Path("build/dataset"), Path("build/base")


def main(place: str) -> None:
    row, encoded = find(place)
    if not BASE.is_dir():
        raise StageError(f"{BASE}: not there, and its tokenizer is needed: run `dvc repro base`")
    tokenizer = encoding.load_tokenizer(BASE)
    trained = sum(encoded.trained)
    console.print(
        f"{place}  {row['source']}, raw row {row['row']}, {len(encoded.ids)} tokens, {trained} of them trained",
        markup=False,
    )
    console.print("what is trained is underlined, and marked [1] in the list of tokens", markup=False)
    text = Text()
    for piece in page.pieces(tokenizer, encoded):
        style = "bold underline green" if piece.trained else "dim" if piece.control else ""
        text.append(page.visible(piece.text), style=style)
    console.print(text)
    for token, is_trained in zip(encoded.ids, encoded.trained, strict=True):
        console.print(f"{token:7d} [{int(is_trained)}] {tokenizer.decode([token])!r}", markup=False)


def find(place: str) -> tuple[dict[str, Any], Encoded]:
    """The row that `train:N` or `eval:N` names. Line by line: the file may be larger than memory."""
    shown = f"ROW={ascii(place)[1:-1][:80]}"
    if not (named := re.fullmatch("(train|eval):([0-9]+)", place)):
        raise StageError(f"{shown}: write train:N or eval:N, counting from 0")
    part, index = named.groups()
    index = int(index) if len(index) < 19 else sys.maxsize
    path, tokens = DATASET / f"{part}.jsonl", DATASET / f"{part}.arrow"
    for file in (path, tokens):
        if not file.is_file():
            raise StageError(f"{file}: not built yet: run `dvc repro dataset`")
    with path.open("rb") as lines:
        line = next(islice(lines, index, None), None)
        if line is not None:
            return json.loads(line), token_files.row(tokens, index)
        lines.seek(0)
        count = sum(1 for _ in lines)
    there = f"has {count:,} rows, {part}:0 to {part}:{count - 1}" if count else "has no rows"
    raise StageError(f"{shown}: {path} {there}")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know ASCII alone
    with command("show"):
        main(sys.argv[1] if len(sys.argv) > 1 else "train:0")
