"""raw: fetch each dataset, verbatim.

Reads   params `raw`; data/ for local paths, the hub (network) for repositories
Writes  build/raw/NAME/…, one folder a dataset, and build/raw/files.json: size and SHA-256 of every file
"""

import os
import shutil
import stat
from pathlib import Path

from ingot.console import progress
from ingot.console.messages import DISK
from ingot.console.progress import StageError
from ingot.exact.files import linked_folder, output_folder, sha256, write_json
from ingot.params.core import load
from ingot.sources import downloads, hub_dataset, raw_files, readers
from ingot.sources.params import Raw, Source

OUT = Path("build/raw")


def main() -> None:
    params = load("raw", Raw)
    count = progress.quantity(len(params.datasets), "datasets")
    with progress.stage("raw", f"fetch {count}") as made, output_folder(OUT) as out:
        for name, source in params.datasets.items():
            folder = out / name
            folder.mkdir()
            (copy if source.repo is None else hub_dataset.fetch)(source, name, folder)
        files = {
            path.relative_to(out).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }
        write_json(out / "files.json", files)
        made += [
            progress.quantity(len(files), "files"),
            progress.bytes_(sum(file["bytes"] for file in files.values())),
        ]
    downloads.keep_only("dataset", [(s.repo, s.revision) for s in params.datasets.values() if s.repo is not None])


def copy(source: Source, name: str, folder: Path) -> None:
    """A local file, or of a local folder the files that are meant."""
    path, key = raw_files.as_on_disk(Path(source.path)), f"raw.datasets.{name}.path"
    if link := linked_folder(path):
        raise StageError(f"{key}: {link} is a link to a folder; link the files in it, or copy it")
    if not path.exists():
        beside = sorted(raw_files.legible(p.name) for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise StageError(
            f"{key}: {source.path}: no such file or folder; "
            + (f"{path.parent}/ holds {', '.join(beside)}" if beside else f"there is no folder {path.parent}/")
        )
    if path.is_file() and source.files is not None:
        raise StageError(
            f"raw.datasets.{name}.files: {path} is one file: leave `files` out, or name its folder as `path`"
        )
    if path.name.startswith("."):
        raise StageError(f"{key}: {path} is hidden, and hidden files are left out: rename it")
    names = [path.name] if path.is_file() else inside(path, key)
    names = readers.with_rows(names) if source.files is None else raw_files.chosen(names, None, name, source)
    raw_files.kind_of(names, name)
    for file in names:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        copy_whole(path if path.is_file() else path / file, folder / file, key)


def inside(folder: Path, key: str) -> list[str]:
    """The files below a folder, by name. Hidden ones are left out: editors, version control and macOS make them."""
    found, hidden = [], 0
    for place, folders, files in os.walk(folder, onerror=_refuse):
        for name in sorted((*folders, *files)):
            if raw_files.legible(name) != name and not name.startswith("."):
                raise StageError(
                    f"{key}: {place} holds {raw_files.legible(name)}, a name that is not UTF-8: "
                    "rename it, as with convmv -t utf8"
                )
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise StageError(f"{key}: {Path(place) / name} is a link to a folder; link the files in it, or copy it")
        hidden += sum(name.startswith(".") for name in (*folders, *files))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
    if hidden:
        progress.console.print(f"  {folder}: hidden files and folders are left out: {hidden}", markup=False)
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise StageError(f"{error.filename}: cannot be read ({error.strerror}); chmod -R u+rX it")


def copy_whole(source: Path, target: Path, key: str) -> None:
    """The content, whatever links lead to it; refused where it is none, or changes meanwhile."""
    try:
        before = source.stat()
        if not stat.S_ISREG(before.st_mode):
            raise StageError(f"{key}: {source} is no file but a device, pipe or socket")
        if not before.st_size:
            raise StageError(f"{key}: {source} is empty")
        shutil.copyfile(source, target)
        after = source.stat()
    except OSError as error:
        if source.is_symlink() and not source.exists():
            raise StageError(f"{key}: {source} is a link to {os.readlink(source)}, which is not there") from None
        if error.filename is None or error.filename == str(target) or error.errno in DISK:  # not the source's fault
            raise
        raise StageError(f"{key}: {source} cannot be copied: {error.strerror}") from None
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino) or (
        target.stat().st_size != after.st_size
    ):
        raise StageError(f"{key}: {source} changed while it was copied; run again when nothing writes to it")


if __name__ == "__main__":
    progress.start(main)
