"""raw: fetch each dataset, verbatim.

Reads   params `raw`; data/ for local paths, the hub (network) for repositories
Writes  build/raw/NAME/…, one folder a dataset, and build/raw/files.json: size and SHA-256 of every file
"""

import shutil
from pathlib import Path

from ingot.artifact import output_folder, sha256, write_json
from ingot.inside import hub, progress
from ingot.inside.progress import StageError
from ingot.params.core import load
from ingot.params.raw import Raw, Source

OUT = Path("build/raw")


def main() -> None:
    params = load("raw", Raw)
    with progress.stage("raw", f"fetch {len(params.datasets)} datasets") as made, output_folder(OUT) as out:
        for name, source in params.datasets.items():
            folder = out / name
            folder.mkdir()
            fetch(source, name, folder)
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


def fetch(source: Source, name: str, folder: Path) -> None:
    """One dataset's files into `folder`."""
    if source.repo is not None:
        hub.fetch(source.repo, source.revision, "dataset", folder)
        return
    path = Path(source.path)
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise StageError(
            f"raw.datasets.{name}.path: {source.path}: no such file or folder; "
            + (f"{path.parent}/ holds {', '.join(beside)}" if beside else f"there is no folder {path.parent}/")
        )
    if path.is_dir():
        shutil.copytree(path, folder, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, folder / path.name)


if __name__ == "__main__":
    progress.start(main)
