"""Raw rows to conversations: reading a fetched dataset, and mapping its columns to turns."""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path
from typing import Any

from ingot.inside.chat import Message
from ingot.inside.progress import StageError
from ingot.params.dataset import Columns, Part
from ingot.params.raw import Source

# The reader of `datasets` for a local file, and what it is told. For CSV the words NA, null and None stay words.
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".parquet": ("parquet", {}),
}


class Unfit(Exception):
    """A row that cannot be trained on; the message is the reason, without the row's place."""


def read(folder: Path, name: str, source: Source):
    """The rows of build/raw/NAME as a `datasets.Dataset`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        raise StageError(f"dataset.mix.{name}: no such dataset was fetched; build/raw has {', '.join(there)}")
    with tempfile.TemporaryDirectory() as cache:
        try:
            if source.repo is not None:
                rows = load_dataset(str(folder), source.config, split=source.split, cache_dir=cache)
            else:
                reader, options, files = _local(folder, name)
                rows = load_dataset(reader, data_files=files, split="train", cache_dir=cache, **options)
        except (DatasetGenerationError, DatasetsError, OSError, RuntimeError, StopIteration, ValueError) as error:
            why = error.__cause__ or str(error) or "no rows were found in it"
            raise StageError(f"raw.datasets.{name}: cannot be read: {why}") from None
        return rows  # mapped into memory: the file may go, the rows stay readable


def _local(folder: Path, name: str) -> tuple[str, dict[str, Any], list[str]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if empty := [path.name for path in files if not path.stat().st_size]:
        raise StageError(f"raw.datasets.{name}.path: {empty[0]} is empty")
    kinds = sorted({path.suffix for path in files})
    if len(kinds) != 1 or kinds[0] not in READERS:
        raise StageError(
            f"raw.datasets.{name}.path: files of one kind out of {', '.join(READERS)} are read; found {', '.join(kinds) or 'none'}"
        )
    reader, options = READERS[kinds[0]]
    return reader, options, [glob.escape(str(path)) for path in files]


def wanted(columns: Columns) -> list[str]:
    """Every column that a mapping names."""
    user = [columns.user] if isinstance(columns.user, str) else list(columns.user)
    return [*([columns.system] if columns.system else []), *user, columns.assistant]


def check_columns(rows, name: str, columns: Columns) -> None:
    """Raise StageError unless every mapped column is there and holds text."""
    for column in wanted(columns):
        if column not in rows.column_names:
            example = {key: str(value)[:60] for key, value in rows[0].items()} if len(rows) else {}
            raise StageError(
                f"dataset.mix.{name}.columns: no column {column!r}; there are {', '.join(rows.column_names)}\n"
                f"  the first row: {example}"
            )
        kind = rows.features[column]
        if getattr(kind, "dtype", None) not in ("string", "large_string", "null"):
            raise StageError(
                f"dataset.mix.{name}.columns: column {column!r} holds {getattr(kind, 'dtype', kind)}, not text; "
                f"the first row has {rows[0][column]!r}"
            )


def conversation(row: dict[str, Any], part: Part, join: str, system: str, special: list[str]) -> list[Message]:
    """One row as messages: the row's own system prompt, else its dataset's, else `system`.

    Raises Unfit for an empty turn, or text that holds one of the `special` tokens: it would forge a turn's end.
    """
    columns = part.columns
    asked = [columns.user] if isinstance(columns.user, str) else columns.user
    turns = {
        "system": ((row[columns.system] or "") if columns.system else "").strip() or part.system or system,
        "user": join.join(text for column in asked if (text := (row[column] or "").strip())),
        "assistant": (row[columns.assistant] or "").strip(),
    }
    for role, text in turns.items():
        if not text:
            raise Unfit(f"empty {role} turn")
        for token in special:
            if token in text:
                raise Unfit(f"control token {token} in the {role} turn")
    return [{"role": role, "content": text} for role, text in turns.items()]
