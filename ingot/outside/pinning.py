"""`make pin`: write the present commit of every unpinned repository into params.yaml."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML

from ingot.artifact import write_text
from ingot.params.core import PARAMS_FILE, UNPINNED, read


class PinError(Exception):
    """A repository whose commit cannot be asked for."""


def pin(path: Path = PARAMS_FILE) -> dict[str, str]:
    """Resolve every `revision: unpinned` to the head of its repository's main branch; the rest of the file, comments
    included, stays as it is. Returns {repository: commit}. Nothing is written unless all could be resolved.
    """
    places = [("dataset", source) for source in read(path)["raw"]["datasets"].values()]
    places.append(("model", read(path)["base"]))
    found = {place["repo"]: head(place["repo"], kind) for kind, place in places if place.get("revision") == UNPINNED}
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    with path.open(encoding="utf-8") as file:
        lines = file.read().split("\n")
    document = yaml.load("\n".join(lines))
    for place in [*document["raw"]["datasets"].values(), document["base"]]:
        if place.get("revision") == UNPINNED:
            # In the text, at the value's own place: a dump would also reflow what the user wrote.
            line, column = place.lc.value("revision")
            text = lines[line]
            lines[line] = text[:column] + text[column:].replace(UNPINNED, found[place["repo"]], 1)
            # Columns further right on the same line belong to other keys and are not read again.
    write_text(path, "\n".join(lines))
    return found


def head(repo: str, kind: str) -> str:
    """The commit that the repository's main branch is at."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return HfApi().repo_info(repo, repo_type=kind, revision="main").sha
    except (HfHubHTTPError, httpx.TransportError, OSError) as error:
        raise PinError(f"{kind} {repo}: its commit cannot be read: {error}") from None
