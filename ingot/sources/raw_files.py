"""Raw files to rows: which files a dataset consists of, and the rows in them, whatever kind of file it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ingot.console import bounds, progress
from ingot.console.progress import StageError
from ingot.sources import archives, json_rows, json_text, readers
from ingot.sources.dataset_card import config_of, strange, told
from ingot.sources.params import Source, leads_out
from ingot.sources.parquet_files import BROKEN, not_empty, open_parquet
from ingot.sources.readers import KINDS, PACKED, READ, hidden, kind_of, with_rows

MANY = 100_000  # rows, from which on reading takes seconds and is shown
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
    time, "007" in CSV for 7, and the empty cell of a short line for nothing. Here a column is text where all of it is;
    what is nested or of mixed types keeps its JSON (`datasets.Json`). `scratch` is a folder on a disk for what is
    written meanwhile; without it it is the system's temporary one, which in a sealed stage is memory.

    Only the `wanted` columns have to be readable (None: all). Others that are not are left out, and put into `left`
    with the reason. A column whose name is wanted in another Unicode composition takes the wanted name.
    """
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        raise StageError(f"dataset.mix.{name}: no such dataset was fetched; build/raw has {', '.join(there)}")
    files, kind = _files(folder, name, source)
    options = told(folder / "README.md", name, source, kind) if source.repo is not None else {"field": source.field}
    options = options | {"wanted": wanted, "left": {} if left is None else left}
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".rows-") as room:
        rows = (open_parquet if kind == "parquet" else _text)(files, folder, name, kind, options, Path(room))
    there = {readers.composed(column): column for column in rows.column_names}
    others = {there.get(readers.composed(column)): column for column in wanted or [] if column not in rows.column_names}
    return rows.rename_columns({column: other for column, other in others.items() if column})


def is_table(folder: Path, name: str, source: Source) -> bool:
    """Whether the rows of build/raw/NAME are those of CSV or TSV, which has no other sign for nothing than text."""
    return _files(folder, name, source)[1] == "csv"


def _files(folder: Path, name: str, source: Source) -> tuple[list[Path], str]:
    """The files of build/raw/NAME, and the kind that all of them are of."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path.relative_to(folder)))
    names = with_rows([path.relative_to(folder).as_posix() for path in files])
    return [folder / each for each in names], kind_of(names, name)


def chosen(names: Iterable[str], readme: Path | None, name: str, source: Source) -> list[str]:
    """Which files of a repository or folder are meant, by `files`, or `config` and `split` as `datasets` finds them.

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
            config = config_of(readme, name, source)
            root = str(config.get("data_dir") or ".")
            _inside([root], name)
            given = config.get("data_files")
            try:
                by_split = sanitize_patterns(given) if given else get_data_patterns((base / root).as_posix())
            except FileNotFoundError:
                by_split = {}
            except ValueError as error:
                raise strange(name, source, error) from None
            if source.split not in by_split:
                raise StageError(
                    f"raw.datasets.{name}.split: {source.split}: no such split; there are "
                    f"{', '.join(by_split) or 'none'}. "
                    'Or name the files: files: ["data/*.parquet"]'
                    + ("" if by_split else f". The repository holds {_some(names)}; the hub keeps a Parquet copy of "
                    "most datasets in the branch refs/convert/parquet, whose commit can be pinned")
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
                    f"raw.datasets.{name}.files: {pattern}: no such file of a kind that is read ({READ}); "
                    f"there are {_some(names)}"
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
    """A file's name, bytes that are no UTF-8 written out: as Python keeps them they cannot be printed or written."""
    return name.encode("utf-8", "backslashreplace").decode()


def _inside(patterns: list[str], name: str) -> None:
    """Raise StageError for a pattern that a repository's README could reach other files, or other hosts, by."""
    for pattern in patterns:
        if leads_out(pattern):
            raise StageError(f"raw.datasets.{name}: the pattern {pattern!r} leads out of the repository: it is refused")


def _some(names: Iterable[str]) -> str:
    listed = sorted(name for name in names if not hidden(PurePosixPath(name)))
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8:,} more" if len(listed) > 8 else "")


def _text(files: list[Path], folder: Path, name: str, kind: str, options: dict[str, Any], room: Path):
    """CSV and JSON, twice: first what the columns hold, then the rows."""
    from datasets import Dataset, Features, Json, Value

    read = readers.csv_rows if kind == "csv" else json_rows.json_rows
    encoding = options.get("encoding") or "utf-8"

    def rows() -> Iterator[dict[str, Any]]:
        for path in files:
            within = file = path.relative_to(folder).as_posix()
            not_empty(path, file, name)
            try:
                for member, stream in archives.members(path):
                    within = f"{file}, {member}" if member else file
                    opened = path.open("rb") if stream is None else stream
                    with opened:
                        plain = PurePosixPath(archives.unpacked(member or file))
                        yield from read(readers.Lines(opened, encoding), plain, options)
            except readers.Unreadable as error:
                raise StageError(f"raw.datasets.{name}: {within} {error}") from None
            except BROKEN as error:
                raise StageError(f"raw.datasets.{name}: {file} cannot be read: {error}") from None

    kinds: dict[str, set[type]] = {}
    for number, row in enumerate(_counted(rows(), f"looking through {name}"), 1):
        for column, value in row.items():
            large = type(value) is int and value >= 2**63  # as unsigned ids are: kept as they are written
            kinds.setdefault(column, set()).add(json_text.Odd if large else type(value))
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
        raise StageError(f"raw.datasets.{name}: cannot be read: it holds {json_text.DEEP}") from None
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
    """The text as UTF-8 holds it: U+FFFD for half a pair of surrogates, which JSON may write where an emoji was cut."""
    return text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
