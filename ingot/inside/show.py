"""`make show ROW=train:0`: one conversation as the model sees it: text, token ids, and which of them are trained."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.text import Text

from ingot.artifact import read_jsonl
from ingot.inside import chat
from ingot.inside.progress import StageError, console
from ingot.params.core import Template, load

DATASET, BASE = Path("build/dataset"), Path("build/base")


def main(place: str) -> None:
    part, _, index = place.partition(":")
    if part not in ("train", "eval") or not index.isdecimal():
        raise StageError(f"ROW={place}: write train:N or eval:N, counting from 0")
    path = DATASET / f"{part}.jsonl"
    if not path.is_file():
        raise StageError(f"{path}: not built yet: run `dvc repro dataset`")
    rows = read_jsonl(path)
    if int(index) >= len(rows):
        raise StageError(f"ROW={place}: {path} has {len(rows)} rows, 0 to {len(rows) - 1}")
    row = rows[int(index)]
    tokenizer = chat.load_tokenizer(BASE)
    source = (DATASET / "chat_template.jinja").read_text(encoding="utf-8")
    encoded = chat.encode(tokenizer, row["messages"], source, chat.END_OF_TURN[load("template", Template)])
    console.print(f"{place}  {row['source']}, raw row {row['row']}, {len(encoded.ids)} tokens")
    console.print("what is trained is underlined, and marked [1] in the list of tokens", markup=False)
    offsets = tokenizer(encoded.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    text = Text()
    for (left, right), trained in zip(offsets, encoded.trained, strict=True):
        text.append(encoded.text[left:right], style="bold underline green" if trained else "")
    console.print(text)
    for token, trained in zip(encoded.ids, encoded.trained, strict=True):
        console.print(f"{token:7d} [{int(trained)}] {tokenizer.decode([token])!r}", markup=False)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "train:0")
    except StageError as error:
        sys.exit(f"show: {error}")
