"""`make pin`: write the present commit of every repository that is not pinned into params.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ruamel.yaml import YAML

from ingot.console import bounds
from ingot.console.messages import Fault
from ingot.exact.files import write_text
from ingot.params.core import COMMIT, PARAMS_FILE, UNPINNED, read

TIMEOUT = 30  # seconds without a byte


class PinError(Fault):
    """A repository whose commit cannot be asked for."""


def pin(path: Path = PARAMS_FILE) -> dict[str, str]:
    """Resolve every `revision` that is a branch or tag, or `unpinned` (the main branch), to the commit it is at; the
    rest of the file, comments included, stays as it is. Returns {repository: commit}. Nothing is written unless all
    could be resolved.
    """
    found = {
        (place["repo"], str(place["revision"])): head(place["repo"], kind, str(place["revision"]))
        for kind, place in _loose(read(path))
    }
    yaml = YAML()
    yaml.preserve_quotes = True
    with path.open(encoding="utf-8", newline="") as file:
        lines = file.read().split("\n")
    for _, place in _loose(yaml.load("\n".join(lines))):
        # In the text, at the value's own place: a dump would also reflow what the user wrote. Columns further right on
        # the same line belong to other keys and are not read again.
        line, column = place.lc.value("revision")
        old = str(place["revision"])
        lines[line] = lines[line][:column] + lines[line][column:].replace(old, found[place["repo"], old], 1)
    write_text(path, "\n".join(lines))
    return {repo: commit for (repo, _), commit in found.items()}


def _loose(document: Any) -> list[tuple[str, Any]]:
    """The places (kind, mapping) whose revision is no commit. The file is not validated: it is unsound before this."""
    sections = [document.get("raw"), document.get("base")]
    datasets = sections[0].get("datasets") if isinstance(sections[0], dict) else None
    places = [("dataset", place) for place in (datasets.values() if isinstance(datasets, dict) else [])]
    places.append(("model", sections[1]))
    return [
        (kind, place)
        for kind, place in places
        if isinstance(place, dict)
        and isinstance(place.get("repo"), str)
        and place.get("revision") is not None
        and not re.fullmatch(COMMIT, str(place["revision"]))
    ]


def head(repo: str, kind: str, revision: str) -> str:
    """The commit that a branch or tag is at; `unpinned` stands for the main branch."""
    import httpx
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id

    hub, token, branch = constants.ENDPOINT, get_token(), "main" if revision == UNPINNED else revision
    try:
        validate_repo_id(repo)
        address = f"{hub}/api/{kind}s/{repo}/revision/{quote(branch, safe='')}"
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        answer = bounds.answer(
            get_session(),
            "GET",
            address,
            bounds.LISTING_BYTES,
            bounds.LISTING_SECONDS,
            headers=headers,
            timeout=TIMEOUT,
        )
        hf_raise_for_status(answer)
        sha = answer.json()["sha"]
    except RevisionNotFoundError:
        raise PinError(
            f"{kind} {repo}: no branch or tag {revision!r}; write one that its page names, or `revision: {UNPINNED}`, "
            "which stands for the main branch"
        ) from None
    except Exception as error:  # a page that is no answer breaks the client in ways that nobody has counted
        known = isinstance(error, HfHubHTTPError | HFValidationError | httpx.TransportError)
        doubt = "" if known else f" (is {hub} a hub, or a proxy's or login page? HF_ENDPOINT)"
        said = str(error)[:2000].replace(token, "…") if token else str(error)[:2000]
        raise PinError(f"{kind} {repo}: its commit cannot be read{doubt}: {said or type(error).__name__}") from None
    if not isinstance(sha, str) or not re.fullmatch(COMMIT, sha):
        raise PinError(f"{kind} {repo}: its commit cannot be read: {hub} says it is {str(sha)[:80]!r} (HF_ENDPOINT)")
    return sha
