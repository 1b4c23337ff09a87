"""`ingot new`, the data: which layout files or repositories have, how many rows, and what their conversations are."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ingot.console.messages import Fault
from ingot.console.progress import StageError
from ingot.data import layouts, unread
from ingot.data.cleaning import Cleaner, Unfit
from ingot.data.conversations import Mapping
from ingot.data.params import Clean, Part
from ingot.exact.files import sha256
from ingot.params.core import UNPINNED, faults_of, read
from ingot.planning.recipe import DEFAULTS
from ingot.sources import hub_dataset, pinning, raw_files
from ingot.sources.params import Source

DATA, SCRATCH = Path("data"), Path(".cache/new")
REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(\w+))?")  # owner/name, and its split
LOOKED_AT = 2000  # rows of a set, at even distances, that are mapped and counted
HEAD = 16 << 20  # bytes of a text file that a preview reads
CUT = (".jsonl", ".ndjson", ".csv", ".tsv")  # kinds whose beginning can be read by itself


class NewError(Fault):
    """What keeps a recipe from being written."""


@dataclass
class DataSet:
    name: str
    source: Source
    origin: Path | None  # the file or folder, where it has yet to be brought to source.path
    rows: Any  # datasets.Dataset
    whole: bool  # whether `rows` are all of them
    columns: Any  # as params.yaml has them: a name of a layout, or a mapping
    ignore: list[str]  # unread columns that speak against rows, and are not to be heard
    notes: list[str]  # lines on what is not read


def look(given: str, names: set[str], columns: str | None, ignore: list[str] | None, preview: bool) -> DataSet:
    """What one path or repository holds. Raises NewError or StageError that says what is there instead."""
    path = Path(given).expanduser()
    if not given.strip() or path.resolve() == Path.cwd() or path.resolve() == Path("/"):
        raise NewError(f"DATA={given}: name a file, or a folder that holds nothing but data")
    repository = None if path.exists() else REPOSITORY.fullmatch(given)
    if not path.exists() and (not repository or (path.parent.is_dir() and path.parent != Path("."))):
        raise NewError(
            f"{given}: no such file or folder\nhint: for a dataset of the hub write OWNER/NAME or OWNER/NAME:SPLIT"
        )
    name = _name(path.name.partition(".")[0] if path.exists() else repository[1].partition("/")[2], names)
    if repository:
        split = repository[2] or "train"
        try:
            commit = pinning.head(repository[1], "dataset", UNPINNED)
        except pinning.PinError as error:
            raise NewError(f"{given}: no such file or folder here, and of the hub: {error}") from None
        source = Source(repo=repository[1], revision=commit, split=split)
        folder, origin, whole = _fetched(source, name), None, True
    else:
        _plain_files(path)
        source, origin = _placed(path)
        folder, whole = _folder(path, name, preview)
    wanted = None if columns is None else _parsed(columns)
    left: dict[str, str] = {}
    SCRATCH.mkdir(parents=True, exist_ok=True)
    rows = raw_files.open_rows(folder, name, source, SCRATCH, None, left)
    if not len(rows):
        raise NewError(f"{given}: has no rows\nhint: name a file with conversations in it")
    found = wanted if wanted is not None else layouts.suggestion(rows)
    if not found:
        raise NewError(
            f"{given}: its layout is not known; {layouts.described(rows)}\n"
            "hint: say it: make new … ARGS=\"--columns '{user: …, assistant: …}'\""
        )
    if wanted is None:
        found = YAML(typ="safe").load(found)
    there = [name for name in ignore or [] if name in rows.column_names or "[]." in name]
    part = Part(share=1.0, columns=found, ignore=there or None)
    layouts.check(rows, name, part.columns)
    listed = unread.lines(unread.listed(rows, name, part, left), {name: len(rows)})
    try:
        telling = unread.telling(rows, name, part, left, False)
    except StageError as error:  # its cure is a key of a recipe that is not there yet
        raise NewError(re.sub(r"dataset\.mix\.\w+\.ignore: \[(.*?)\]", r"ARGS='--ignore \1'", str(error))) from None
    for one in telling:
        if count := int(one.rows.sum()):
            listed.append(f"{count:,} of {len(rows):,} rows are left out: {one.reason}")
    return DataSet(name, source, origin, rows, whole, found, there, listed)


def _parsed(text: str) -> Any:
    try:
        value = YAML(typ="safe").load(text)
        Part(share=1.0, columns=value)
    except YAMLError:
        raise NewError(f"--columns {text}: is no YAML\nhint: as in '{{user: Question, assistant: Answer}}'") from None
    except ValidationError as error:
        raise NewError(f"--columns: {faults_of('columns', error)[0]}") from None
    return value


def _name(text: str, taken: set[str]) -> str:
    """A dataset's name from a file's: small letters, digits and _, unlike those taken."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:50]
    plain = plain if re.match("[a-z]", plain) else f"set_{plain}".rstrip("_")
    name = next(each for each in (plain, *(f"{plain}_{number}" for number in range(2, 10_000))) if each not in taken)
    taken.add(name)
    return name


def _plain_files(path: Path) -> None:
    """Raise NewError where a folder holds links that lead nowhere or to folders, pipes or devices."""
    for place, folders, files in os.walk(path) if path.is_dir() else ():
        for name in (*folders, *files):
            one = Path(place, name)
            if name.startswith(".") or (one.is_dir() and not one.is_symlink()) or (one.is_file() and one.exists()):
                continue
            what = (
                "a link to a folder" if one.is_dir() else "a link that leads nowhere" if one.is_symlink() else "no file"
            )
            raise NewError(f"{one}: {what}\nhint: take it out, or name the files themselves")


def _placed(path: Path) -> tuple[Source, Path | None]:
    """Where under data/ it lies, or will lie; and what has to be brought there."""
    inside = Path(os.path.relpath(path.resolve(), Path.cwd()))
    if inside.parts[0] == DATA.name and len(inside.parts) > 1:
        return Source(path=inside.as_posix()), None
    return Source(path=(DATA / path.resolve().name).as_posix()), path


def _folder(path: Path, name: str, preview: bool) -> tuple[Path, bool]:
    """A folder with the file alone in it, or the folder itself; and whether that is all: a preview reads a head."""
    if path.is_dir():
        return path, True
    place = SCRATCH / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if preview and path.suffix.lower() in CUT and path.stat().st_size > HEAD:
        with path.open("rb") as file:
            (place / path.name).write_bytes(file.read(HEAD).rpartition(b"\n")[0] + b"\n")
        return place, False
    (place / path.name).symlink_to(path.resolve())
    return place, True


def _fetched(source: Source, name: str) -> Path:
    """The files of a repository's split, as the raw stage fetches them."""
    place = SCRATCH / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    hub_dataset.fetch(source, name, place)
    return place


def to_bring(sets: list[DataSet]) -> list[tuple[Path, Path]]:
    """What lies elsewhere, and its place under data/. Raises NewError where something else is there already."""
    found: list[tuple[Path, Path]] = []
    for each in sets:
        origin, target = each.origin, Path(each.source.path or "")
        if not origin:
            continue
        for other, taken in found:
            if same(origin, other):
                raise NewError(f"{origin}: is named twice\nhint: name each file once")
            if taken == target:
                raise NewError(f"{origin} and {other} would both lie at {target}\nhint: rename one of them")
        if target.exists() and not same(origin, target):
            raise NewError(f"{target} is there already, with other content than {origin}\nhint: rename one of them")
        found.append((origin, target))
    return [(origin, target) for origin, target in found if not target.exists()]


def same(one: Path, other: Path) -> bool:
    """Whether two files, or the files of two folders that are not hidden, have the same content."""
    if one.is_file() and other.is_file():
        return one.samefile(other) or (one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other))
    if not (one.is_dir() and other.is_dir()):
        return False
    names, others = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
        for folder in (one, other)
    )
    return names == others and all(same(one / name, other / name) for name in names)


def linked(source: Path, target: Path) -> str:
    """Make the target by hard links, or by copies where the disk is another; returns which. All of it, or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    how = ["is linked to"]

    def one(origin: str, place: str) -> None:
        try:
            os.link(os.path.realpath(origin), place)
        except OSError:
            how[0] = "is copied to"
            shutil.copy2(origin, place)

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as room:
        beside = Path(room, target.name)
        if source.is_file():
            one(str(source), str(beside))
        else:
            shutil.copytree(source, beside, copy_function=one, ignore=shutil.ignore_patterns(".*"))
        beside.rename(target)
    return how[0]


def conversations(
    found: DataSet, system: str, template: str, special: list[str], most: int = LOOKED_AT
) -> Iterator[tuple[int, Any]]:
    """Rows at even distances: their numbers, and each as messages, or why it cannot be trained on (a text)."""
    part = Part(share=1.0, columns=found.columns, ignore=found.ignore or None)
    defaults = read(DEFAULTS)["dataset"]
    mapping = Mapping(part, defaults["join"], system, Cleaner(Clean(**defaults["clean"]), special), template)
    count = len(found.rows)
    rows = found.rows.select_columns(part.columns.wanted())
    for place in range(min(most, count)):
        number = place * count // min(most, count)
        row = rows[number]
        try:
            yield (
                number,
                mapping({name: layouts.bare(value) for name, value in row.items()} if part.columns.turns else row),
            )
        except Unfit as error:
            yield number, error.reason
