"""Raw files to rows: which files a dataset consists of, and the rows in them, whatever kind of file it is."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ingot.console import bounds, progress
from ingot.console.progress import StageError
from ingot.exact.files import is_pointer
from ingot.sources import readers
from ingot.sources.params import Source, leads_out
from ingot.sources.readers import KINDS, PACKED, READ, hidden, kind_of

# What the README of a hub dataset may tell the readers (`configs`); what is not among it is refused by name.
TOLD = {
    "csv": {"sep", "delimiter", "quotechar", "names", "column_names", "encoding"},
    "json": {"field", "encoding"},
    "parquet": set(),
}
# What it may hold besides, which says nothing about how the files are read.
UNTOLD = {"data_files", "data_dir", "default", "version", "description", "features", "drop_labels", "drop_metadata"}
# What unpacking a damaged file ends with.
BROKEN = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, lzma.LZMAError, zlib.error)
MANY = 100_000  # rows, from which on reading takes seconds and is shown
MEDIA = ("Image", "Audio", "Video", "Pdf", "Nifti")  # what `datasets` would decode
BATCH = 16 << 20  # characters of a record batch: what is in memory at once, whatever the file's size


def open_rows(
    folder: Path,
    name: str,
    source: Source,
    scratch: Path | None = None,
    wanted: list[str] | None = None,
    left: dict[str, str] | None = None,
):
    """The rows of build/raw/NAME as a `datasets.Dataset`, mapped into memory from a file that is gone already.

    Text files are read by Python's own csv and json into Arrow, for `datasets` takes ISO dates in JSON for points in
    time, "007" in CSV for 7, and the empty cell of a short line for nothing. Here a column is text where all of it is; what
    is nested or of mixed types keeps its JSON (`datasets.Json`). `scratch` is a folder on a disk for what is written
    meanwhile; without it it is the system's temporary one, which in a sealed stage is memory.

    Only the `wanted` columns have to be readable (None: all). Others that are not are left out, and put into `left` with
    the reason. A column whose name is wanted in another Unicode composition takes the wanted name.
    """
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        raise StageError(f"dataset.mix.{name}: no such dataset was fetched; build/raw has {', '.join(there)}")
    files, kind = _files(folder, name, source)
    options = _told(folder / "README.md", name, source, kind) if source.repo is not None else {"field": source.field}
    options = options | {"wanted": wanted, "left": {} if left is None else left}
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".rows-") as room:
        rows = (_parquet if kind == "parquet" else _text)(files, folder, name, kind, options, Path(room))
    there = {readers.composed(column): column for column in rows.column_names}
    others = {there.get(readers.composed(column)): column for column in wanted or [] if column not in rows.column_names}
    return rows.rename_columns({column: other for column, other in others.items() if column})


def is_table(folder: Path, name: str, source: Source) -> bool:
    """Whether the rows of build/raw/NAME are those of CSV or TSV, which has no other sign for nothing than text."""
    return _files(folder, name, source)[1] == "csv"


def _files(folder: Path, name: str, source: Source) -> tuple[list[Path], str]:
    """The files of build/raw/NAME, and the kind that all of them are of."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path.relative_to(folder)))
    if source.repo is not None:
        files = [path for path in files if path != folder / "README.md"]
    return files, kind_of([path.relative_to(folder).as_posix() for path in files], name)


def chosen(names: Iterable[str], readme: Path | None, name: str, source: Source) -> list[str]:
    """Which files of a repository or folder are meant, by `files`, or by `config` and `split` as `datasets` would find them.

    `datasets` itself looks, in a folder of empty files by the same names, so that nothing is fetched to find out.
    """
    from datasets.data_files import get_data_patterns, resolve_pattern, sanitize_patterns

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        named = {readers.composed(file): file for file in names}
        if len(named) < len(names):
            named = {file: file for file in names}  # names that differ in nothing else: each as it is
        for file in named:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or "\0" in file:
                raise StageError(
                    f"raw.datasets.{name}: it holds a file called {file!r}, which leads out of it: do not trust it"
                )
            if not hidden(path):
                (base / path).parent.mkdir(parents=True, exist_ok=True)
                (base / path).touch()
        if source.files is not None:
            what, patterns = "files", [*map(readers.composed, source.files)]
            _inside(patterns, name)
        else:
            config = _config(readme, name, source)
            root = str(config.get("data_dir") or ".")
            _inside([root], name)
            given = config.get("data_files")
            try:
                by_split = sanitize_patterns(given) if given else get_data_patterns((base / root).as_posix())
            except FileNotFoundError:
                by_split = {}
            except ValueError as error:
                raise _strange(name, source, error) from None
            if source.split not in by_split:
                raise StageError(
                    f"raw.datasets.{name}.split: {source.split}: no such split; there are {', '.join(by_split) or 'none'}. "
                    'Or name the files: files: ["data/*.parquet"]'
                    + ("" if by_split else f". The repository holds {_some(names)}; the hub keeps a Parquet copy of most "
                    "datasets in the branch refs/convert/parquet, whose commit can be pinned")
                )  # fmt: skip
            what = f"split {source.split}"
            by_split = {split: [str(pattern) for pattern in several] for split, several in by_split.items()}
            _inside(by_split[source.split], name)
            patterns = [(PurePosixPath(root) / pattern).as_posix() for pattern in by_split[source.split]]
        # As they are written: `datasets` knows small letters alone.
        suffixes = {suffix for file in names for suffix in PurePosixPath(file).suffixes}
        read = [suffix for suffix in suffixes if suffix.lower() in (*KINDS, *PACKED)]
        found: dict[str, None] = {}
        for pattern in patterns:
            try:
                paths = resolve_pattern(pattern, base.as_posix(), read)
            except FileNotFoundError:
                if source.files is None:
                    continue  # one of several ways in which a split's files may be called
                raise StageError(
                    f"raw.datasets.{name}.files: {pattern}: no such file of a kind that is read ({READ}); there are {_some(names)}"
                ) from None
            found |= {Path(path).relative_to(base).as_posix(): None for path in paths}
        if not found:
            raise StageError(
                f"raw.datasets.{name}: {what}: no file of a kind that is read ({READ}); there are {_some(names)}"
            )
        kind_of(list(found), name)
        return sorted(named[file] for file in found)


def as_on_disk(path: Path) -> Path:
    """The path by the names that are on the disk: a Mac's take apart what a keyboard writes as one character."""
    there = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if not (there / part).exists() and there.is_dir():
            alike = [one.name for one in there.iterdir() if readers.composed(one.name) == readers.composed(part)]
            part = alike[0] if len(alike) == 1 else part
        there = there / part
    return there


def legible(name: str) -> str:
    """A file's name with those bytes written out that are no UTF-8: as Python keeps them they can be neither printed nor written."""
    return name.encode("utf-8", "backslashreplace").decode()


def _inside(patterns: list[str], name: str) -> None:
    """Raise StageError for a pattern that a repository's README could reach other files, or other hosts, by."""
    for pattern in patterns:
        if leads_out(pattern):
            raise StageError(f"raw.datasets.{name}: the pattern {pattern!r} leads out of the repository: it is refused")


def _some(names: Iterable[str]) -> str:
    listed = sorted(name for name in names if not hidden(PurePosixPath(name)))
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8:,} more" if len(listed) > 8 else "")


def _config(readme: Path | None, name: str, source: Source) -> dict[str, Any]:
    """What the front matter of a dataset's README says of the config that is meant; {} where it lists none."""
    from datasets.utils.metadata import MetadataConfigs

    try:
        card = _front_matter(readme) if readme is not None and readme.is_file() else {}
        configs = MetadataConfigs.from_dataset_card_data(card)
        default = configs.get_default_config_name()
    except Exception as error:  # whatever a stranger's YAML leads the two libraries to
        raise _strange(name, source, error) from None
    wanted = source.config or default
    if wanted in configs:
        return configs[wanted]
    if not configs and source.config is None:
        return {}
    there = f"there are {', '.join(configs)}" if configs else f"the README of {source.repo} lists none"
    raise StageError(f"raw.datasets.{name}.config: {source.config or 'missing'}: no such config; {there}")


def _front_matter(readme: Path) -> dict[str, Any]:
    """The YAML between the two lines --- that a README begins with; {} without them. Raises whatever is wrong with it."""
    import yaml

    if readme.stat().st_size > bounds.README_BYTES:
        raise ValueError(f"it has more than {bounds.README_BYTES // bounds.MB} MB")
    lines = re.split("\r\n|\r|\n", readme.read_text(encoding="utf-8-sig").lstrip())
    if lines[0].rstrip() != "---" or "---" not in lines[1:]:
        return {}
    text = "\n".join(lines[1 : lines.index("---", 1)])
    bounds.check_yaml(yaml.parse(text, Loader=yaml.SafeLoader))
    data = yaml.safe_load(text)
    if not isinstance(data, dict | None):
        raise ValueError("what stands between its two --- is no list of keys and values")
    return data or {}


def _strange(name: str, source: Source, error: Exception) -> StageError:
    return StageError(
        f"raw.datasets.{name}: the README of {source.repo} cannot be read: {str(error)[:300]}. "
        'Name the files instead of the split: files: ["data/*.parquet"]'
    )


def _told(readme: Path, name: str, source: Source, kind: str) -> dict[str, Any]:
    """What the README says of how the files are read."""
    if source.files is not None:
        return {"field": source.field}
    config = _config(readme, name, source)
    if unknown := sorted(set(config) - TOLD[kind] - UNTOLD):
        raise StageError(
            f"raw.datasets.{name}: the README of {source.repo} asks for {unknown[0]}: {config[unknown[0]]!r}, which is not known; "
            "choose the files without it: files: [...]"
        )
    return {"field": source.field} | {key: value for key, value in config.items() if key in TOLD[kind]}


def _parquet(files: list[Path], folder: Path, name: str, kind: str, options: dict[str, Any], room: Path):
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from pyarrow import parquet

    plain, schemas, at_once = [], {}, 1000
    for path in files:
        file = path.relative_to(folder).as_posix()
        _not_empty(path, file, name)
        try:
            for member, stream in readers.members(path):
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
    """How many rows of a Parquet file may be read at once, up to 1000, by its dictionaries. Raises Unreadable beyond the bounds."""
    from pyarrow import parquet

    groups, most = parquet.read_metadata(path), 1
    pages = sum(groups.row_group(group).total_byte_size for group in range(groups.num_row_groups))
    if pages > max(bounds.UNPACKED_TIMES * (size := path.stat().st_size), bounds.UNPACKED_BYTES):
        raise readers.bomb(size)
    with path.open("rb") as file:
        for group in map(groups.row_group, range(groups.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            most = max(most, sum(_dictionary_bytes(file, column) for column in columns))
    if most > bounds.DICTIONARY_BYTES:
        raise readers.Unreadable(
            f"has {most // bounds.MB:,} MB of dictionaries for one group of rows, where {bounds.DICTIONARY_BYTES // bounds.MB} MB "
            "at most are read: write it anew if you trust it: pyarrow.parquet.write_table(TABLE, NAME, use_dictionary=False)"
        )
    return max(1, min(1000, bounds.AT_ONCE_BYTES // most))


def _dictionary_bytes(file, column) -> int:
    """The size of a column chunk's dictionary, 0 without one, by the header of its first page: Thrift's compact protocol."""
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
                        f"raw.datasets.{name}: {file} has {fault}: give it one type in all files, or name files that agree: "
                        "files: [...]"
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
                    f"raw.datasets.{name}: the column {column!r} is of the type {field.type}, which is not read: save it as "
                    "text, or as lists and structs"
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


def _text(files: list[Path], folder: Path, name: str, kind: str, options: dict[str, Any], room: Path):
    """CSV and JSON, twice: first what the columns hold, then the rows."""
    from datasets import Dataset, Features, Json, Value

    read = readers.csv_rows if kind == "csv" else readers.json_rows
    encoding = options.get("encoding") or "utf-8"

    def rows() -> Iterator[dict[str, Any]]:
        for path in files:
            within = file = path.relative_to(folder).as_posix()
            _not_empty(path, file, name)
            try:
                for member, stream in readers.members(path):
                    within = f"{file}, {member}" if member else file
                    opened = path.open("rb") if stream is None else stream
                    with opened:
                        plain = PurePosixPath(readers.unpacked(member or file))
                        yield from read(readers.Lines(opened, encoding), plain, options)
            except readers.Unreadable as error:
                raise StageError(f"raw.datasets.{name}: {within} {error}") from None
            except BROKEN as error:
                raise StageError(f"raw.datasets.{name}: {file} cannot be read: {error}") from None

    kinds: dict[str, set[type]] = {}
    for number, row in enumerate(_counted(rows(), f"looking through {name}"), 1):
        for column, value in row.items():
            large = type(value) is int and value >= 2**63  # as unsigned ids are: kept as they are written
            kinds.setdefault(column, set()).add(readers.Odd if large else type(value))
        if len(kinds) > bounds.COLUMNS:
            raise StageError(f"raw.datasets.{name}: as far as row {number:,} it {readers.too_many(len(kinds))}")
    if not kinds:
        raise StageError(f"raw.datasets.{name}: cannot be read: no rows were found in it")
    plain = {(str,): "string", (int,): "int64", (float,): "float64", (bool,): "bool", (): "string"}
    features = Features()
    for column, types in kinds.items():
        types = tuple(types - {type(None)})
        features[column] = Value(plain[types]) if types in plain else Json()
    try:
        _write(_counted(rows(), f"reading {name}"), features, room / "rows.arrow")
    except RecursionError:
        raise StageError(f"raw.datasets.{name}: cannot be read: it holds {readers.DEEP}") from None
    except ValueError as error:  # half a character in a column's name
        raise StageError(f"raw.datasets.{name}: cannot be read: {error}") from None
    return Dataset.from_file(str(room / "rows.arrow"))


def _counted(rows: Iterator[dict[str, Any]], what: str) -> Iterator[dict[str, Any]]:
    """The rows; where they are many, how many they are by now."""
    number = 0
    for number, row in enumerate(rows, 1):
        if number == MANY:
            break
        yield row
    if number < MANY:
        return
    with progress.bar(what) as bar:
        task = bar.add_task(what, total=None)
        yield row
        for number, row in enumerate(rows, MANY + 1):
            if number % 1000 == 0:
                bar.update(task, completed=number)
            yield row
        bar.update(task, completed=number, total=number)


def _write(rows: Iterator[dict[str, Any]], features, path: Path) -> None:
    """Rows as an Arrow stream, a batch at a time."""
    import pyarrow as pa
    from datasets import Json

    schema = features.arrow_schema
    nested = {column for column, feature in features.items() if isinstance(feature, Json)}

    def flush() -> None:
        arrays = []
        for field in schema:
            values = columns[field.name]
            try:
                array = pa.array(values, pa.string() if field.name in nested else field.type)
            except UnicodeEncodeError:
                array = pa.array(map(_whole, values), pa.string())
            arrays.append(array.cast(field.type))
            columns[field.name].clear()
        writer.write_batch(pa.record_batch(arrays, schema=schema))

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        columns: dict[str, list[Any]] = {column: [] for column in features}
        held = 0
        for row in rows:
            for column, values in columns.items():
                value = row.get(column)
                if column in nested and value is not None:
                    value = json.dumps(value, ensure_ascii=False, allow_nan=False)
                values.append(value)
                held += len(value) if type(value) is str else 64
            if held > BATCH:
                flush()
                held = 0
        flush()


def _whole(text: str | None) -> str | None:
    """The text as UTF-8 can hold it: U+FFFD for half a pair of surrogates, which JSON may write where an emoji was cut."""
    return text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _not_empty(path: Path, file: str, name: str) -> None:
    if not path.stat().st_size:
        raise StageError(f"raw.datasets.{name}: {file} is empty")
    if is_pointer(path):
        raise StageError(
            f"raw.datasets.{name}: {file} is a pointer of Git LFS, not the file itself\n"
            "hint: run `git lfs install` and `git lfs pull` in the repository that it comes from"
        )
