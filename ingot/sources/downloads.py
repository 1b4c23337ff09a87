"""Where fetched files lie until a stage has taken them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

# Downloads, by repository and commit. They stay while params.yaml names them: a stage that is run again, because what
# it depends on has changed or because it failed later on, fetches nothing twice and needs no network. What a stage
# takes from here is linked, not copied, so that a file stands on the disk once (in a container, which cannot link,
# twice).
DOWNLOADS = Path(".cache/downloads")


def keep_only(kind: str, named: Iterable[tuple[str, str]]) -> None:
    """Remove the downloads of this kind that are not among `named` (repository, commit)."""
    kept = {DOWNLOADS / kind / repo.replace("/", "--") / revision for repo, revision in named}
    for path in (DOWNLOADS / kind).glob("*/*"):
        if path.with_suffix("") not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in (DOWNLOADS / kind).glob("*"):
        if not any(folder.iterdir()):
            folder.rmdir()
