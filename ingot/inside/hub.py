"""Fetching a pinned revision from the Hugging Face Hub, resumably, into one copy."""

from __future__ import annotations

import shutil
from pathlib import Path

from ingot.inside.progress import StageError

# Unfinished downloads wait here, by repository and commit, so that a broken fetch goes on where it stopped.
DOWNLOADS = Path(".cache/downloads")


def fetch(repo: str, revision: str, kind: str, out: Path, patterns: list[str] | None = None) -> None:
    """Put the files of `repo` (`kind` is model or dataset) at commit `revision` into the folder `out`.

    A token for private and gated repositories is taken from HF_TOKEN by huggingface_hub itself; HF_ENDPOINT names another
    server. Raises StageError that says what to do when the hub refuses or cannot be reached.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    folder = DOWNLOADS / kind / repo.replace("/", "--") / revision
    what = f"{kind} {repo} at {revision[:12]}"
    try:
        snapshot_download(repo, repo_type=kind, revision=revision, local_dir=folder, allow_patterns=patterns)
    except GatedRepoError:
        raise StageError(
            f"{what}: gated; accept its terms on its page, then set HF_TOKEN to a token of yours"
        ) from None
    except RevisionNotFoundError:
        raise StageError(
            f"{what}: the repository has no such commit; copy it from the repository's history page"
        ) from None
    except RepositoryNotFoundError:
        raise StageError(f"{what}: no such repository, or a private one; check the name, or set HF_TOKEN") from None
    except (LocalEntryNotFoundError, httpx.TransportError) as error:
        raise StageError(
            f"{what}: the hub cannot be reached ({error.__cause__ or error}); check the network and run again: "
            "what is fetched already is kept"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise StageError(f"{what}: {error}; run again: what is fetched already is kept") from None
    for path in sorted(folder.iterdir()):
        if path.name not in (".cache", ".gitattributes"):
            shutil.move(path, out / path.name)
    shutil.rmtree(folder)
