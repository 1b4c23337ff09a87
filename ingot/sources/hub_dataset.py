"""The files of a dataset of the hub that params.yaml means, as the raw stage and `ingot new` take them."""

from __future__ import annotations

from pathlib import Path

from ingot.sources import hub, raw_files
from ingot.sources.params import Source


def fetch(source: Source, name: str, folder: Path) -> None:
    """Put into the folder what is meant of a repository, and its README, which says how the files are read."""
    snapshot = hub.Snapshot(source.repo, source.revision, "dataset")
    readme = [file for file in snapshot.files() if file == "README.md"]
    card = snapshot.fetch(readme) / "README.md" if readme else None
    snapshot.put(readme + raw_files.chosen(snapshot.files(), card, name, source), folder)
