"""Rows of Parquet files, whose columns may differ from file to file."""

from __future__ import annotations

import lzma
import shutil
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from ingot.console import bounds
from ingot.console.progress import StageError
from ingot.exact.files import is_pointer
from ingot.sources import archives, readers

# What unpacking a damaged file ends with.
BROKEN = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)
MEDIA = ("Image", "Audio", "Video", "Pdf", "Nifti")  # what `datasets` would decode


def open_parquet(files: list[Path], folder: Path, name: str, kind: str, options: dict[str, Any], room: Path):
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from pyarrow import parquet

    plain, schemas, at_once = [], {}, 1000
    for path in files:
        file = path.relative_to(folder).as_posix()
        not_empty(path, file, name)
        try:
            for member, stream in archives.members(path):
                plain.append(path if stream is None else room / f"{len(plain)}.parquet")
                if stream is not None:
                    with plain[-1].open("wb") as target:
                        shutil.copyfileobj(stream, target)
                within = f"{file}, {member}" if member else file
                schemas[within] = _schema(plain[-1], within, name)
                at_once = min(at_once, _rows_at_once(plain[-1]))
        except readers.Unreadable as error:
            raise StageError(f"raw.datasets.{name}: {file} {error}") from None
        except (*BROKEN, ValueError) as error:
            raise StageError(f"raw.datasets.{name}: {file} cannot be read: {error}") from None
    if not any(parquet.read_metadata(path).num_rows for path in plain):
        raise StageError(f"raw.datasets.{name}: cannot be read: no rows were found in it")
    features = _unified(schemas, name, options["wanted"], options["left"])
    if not features:
        raise StageError(f"raw.datasets.{name}: none of its columns can be read: {_reasons(options['left'])}")
    try:
        if options["left"]:
            for number, path in enumerate(plain):
                plain[number] = room / f"part-{number}.parquet"
                _part(path, plain[number], list(features), at_once)
        # Named one by one and literally: load_dataset takes names for patterns.
        for number, path in enumerate(plain):
            if path.parent != room:
                plain[number] = room / f"{number}.parquet"
                plain[number].symlink_to(path.resolve())
        paths = [str(path) for path in plain]
        # The batch by itself is as large as the first group of rows, which may be empty, or the whole file.
        return load_dataset(
            "parquet",
            data_files=paths,
            split="train",
            cache_dir=str(room),
            features=features,
            batch_size=at_once,
        )
    except (DatasetGenerationError, DatasetsError, OSError, RuntimeError, StopIteration, ValueError) as error:
        why = str(error.__cause__ or error)
        if "UTF8" in why:
            why += ": a column that is mapped stores bytes that are no text in UTF-8: decode them, or map another"
        raise StageError(f"raw.datasets.{name}: cannot be read: {why}") from None


def _schema(path: Path, file: str, name: str):
    """Of its footer, so that the message names the file."""
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise StageError(f"raw.datasets.{name}: {file} cannot be read as Parquet: {error}") from None


def _rows_at_once(path: Path) -> int:
    """How many rows of a Parquet file may be read at once, up to 1000, by its dictionaries.

    Raises Unreadable beyond the bounds.
    """
    from pyarrow import parquet

    groups, most = parquet.read_metadata(path), 1
    pages = sum(groups.row_group(group).total_byte_size for group in range(groups.num_row_groups))
    if pages > max(bounds.UNPACKED_TIMES * (size := path.stat().st_size), bounds.UNPACKED_BYTES):
        raise archives.bomb(size)
    with path.open("rb") as file:
        for group in map(groups.row_group, range(groups.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            most = max(most, sum(_dictionary_bytes(file, column) for column in columns))
    if most > bounds.DICTIONARY_BYTES:
        raise readers.Unreadable(
            f"has {most // bounds.MB:,} MB of dictionaries for one group of rows, where "
            f"{bounds.DICTIONARY_BYTES // bounds.MB} MB at most are read: write it anew if you trust it: "
            "pyarrow.parquet.write_table(TABLE, NAME, use_dictionary=False)"
        )
    return max(1, min(1000, bounds.AT_ONCE_BYTES // most))


def _dictionary_bytes(file, column) -> int:
    """The size of a column chunk's dictionary, 0 without one, by its first page's header: Thrift's compact protocol."""
    file.seek(min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset))
    header, size = file.read(12), 0
    if header[:3] != b"\x15\x04\x15":  # field 1: the type, 2 for a dictionary; field 2: its size, unpacked
        return 0
    for place, byte in enumerate(header[3:]):
        size |= (byte & 127) << 7 * place
        if byte < 128:
            break
    return size >> 1


def _part(path: Path, target: Path, columns: list[str], at_once: int) -> None:
    """Some columns of a Parquet file, as another one."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [column for column in columns if column in schema.names]
        for column in [column for column in schema.names if column not in names]:
            schema = schema.remove(schema.get_field_index(column))
        with parquet.ParquetWriter(target, schema) as writer:
            for batch in file.iter_batches(at_once, columns=names):
                writer.write_batch(batch.select(names).cast(schema))


def _reasons(left: dict[str, str]) -> str:
    return "; ".join(f"{column!r} {reason}" for column, reason in list(left.items())[:8])


def _unified(schemas: dict[str, Any], name: str, wanted: list[str] | None, left: dict[str, str]):
    """Features that hold the columns of all files: one that a file lacks is empty there, numbers take the wider type.

    `datasets` would take the first file's, and make text of the numbers, or numbers of the text, in the others.
    """
    import pyarrow
    from datasets import Features

    fields, origin, asked, stored = {}, {}, {*map(readers.composed, wanted or [])}, {}
    for file, schema in schemas.items():
        if len(schema.names) > bounds.COLUMNS:
            raise StageError(f"raw.datasets.{name}: {file} {readers.too_many(len(schema.names))}")
        if twice := {column for column, times in Counter(schema.names).items() if times > 1}:
            raise StageError(f"raw.datasets.{name}: {file} names the column {min(twice)!r} twice: rename one")
        for column in schema.names:
            first, field = origin.setdefault(column, file), schema.field(column)
            if readers.composed(column) in asked and (kind := _as_text(field.type)) != field.type:
                field, stored = field.with_type(kind), stored | {column: field.type}
            try:
                alone = [pyarrow.schema([one]) for one in (fields.get(column, field), field)]
                fields[column] = pyarrow.unify_schemas(alone, promote_options="permissive").field(column)
            except pyarrow.ArrowException:
                fault = f"{field.type} in the column {column!r} but {first} has {fields[column].type}"
                if wanted is None or readers.composed(column) in asked:
                    raise StageError(
                        f"raw.datasets.{name}: {file} has {fault}: give it one type in all files, or name files that "
                        "agree: files: [...]"
                    ) from None
                left[column] = f"has not one type: {file} has {field.type}, {first} has {fields[column].type}"
    told = next((schema.metadata for schema in schemas.values()), None)
    features = Features()
    for column, field in fields.items():
        if column in left:
            continue
        metadata = None if column in stored else told
        try:
            features[column] = Features.from_arrow_schema(pyarrow.schema([field], metadata))[column]
            if type(features[column]).__name__ in MEDIA:  # as it is stored: nothing here looks at pictures
                features[column] = Features.from_arrow_schema(pyarrow.schema([field]))[column]
        except (ValueError, TypeError, NotImplementedError, pyarrow.ArrowException):
            if wanted is None or readers.composed(column) in asked:
                raise StageError(
                    f"raw.datasets.{name}: the column {column!r} is of the type {field.type}, which is not read: "
                    "save it as text, or as lists and structs"
                ) from None
            left[column] = f"is of the type {field.type}, which is not read"
    return features


def _as_text(kind):
    """An Arrow type with text for the bytes in it, which some programs store text as."""
    import pyarrow
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return pyarrow.large_string() if types.is_large_binary(kind) else pyarrow.string()
    if types.is_dictionary(kind):
        return _as_text(kind.value_type)
    if types.is_list(kind):
        return pyarrow.list_(_as_text(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_as_text(field.type)) for field in kind])
    return kind


def not_empty(path: Path, file: str, name: str) -> None:
    if not path.stat().st_size:
        raise StageError(f"raw.datasets.{name}: {file} is empty")
    if is_pointer(path):
        raise StageError(
            f"raw.datasets.{name}: {file} is a pointer of Git LFS, not the file itself\n"
            "hint: run `git lfs install` and `git lfs pull` in the repository that it comes from"
        )
