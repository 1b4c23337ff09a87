"""What a hub says of a repository, held to be what a hub may say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingot.console import bounds
from ingot.console.progress import StageError
from ingot.exact.files import sha256
from ingot.params.core import COMMIT

NO_HUB = "what answers is no hub: a proxy's or login page? (HF_ENDPOINT)"

# What reading JSON of another shape ends with.
STRANGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def entry_of(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A file's name, and what a listing says of it, as it is kept. Raises one of STRANGE."""
    digest = {"sha256": entry["lfs"]["oid"]} if entry.get("lfs") else {"git": entry["oid"]}
    return "/".join(entry["path"].split("/")), checked({"size": entry["size"]} | digest)


def checked(entry: dict[str, Any]) -> dict[str, Any]:
    """The same, checked. Raises one of STRANGE."""
    digest, kind = (entry["sha256"], "[0-9a-f]{64}") if "sha256" in entry else (entry["git"], COMMIT)
    if type(entry["size"]) is not int or not 0 <= entry["size"] < 2**63 or not re.fullmatch(kind, digest):
        raise ValueError(entry)
    return entry


def check_names(files: dict[str, Any], what: str) -> dict[str, Any]:
    """The files, when their names can all be files below one folder. Raises StageError naming the one that cannot."""
    for name in files:
        parts = name.split("/")
        try:
            long = len(name.encode()) > bounds.PATH_BYTES or any(len(p.encode()) > bounds.NAME_BYTES for p in parts)
        except UnicodeEncodeError:
            raise StageError(f"{what}: it holds a file called {name!r}, which is no text: do not trust it") from None
        if long:
            shown = name if len(name) < 60 else f"{name[:60]}…"
            raise StageError(
                f"{what}: it holds a file called {shown!r}, a name of {len(name)} characters, which no disk takes\n"
                "hint: take a repository with shorter names"
            )
        if {"..", ".", ""} & set(parts) or "\0" in name:
            raise StageError(f"{what}: it holds a file called {name!r}, which leads out of it: do not trust it")
        if within := next((above for end in range(1, len(parts)) if (above := "/".join(parts[:end])) in files), None):
            raise StageError(f"{what}: it holds {within!r} as a file and as a folder ({name!r}): do not trust it")
    return files


def same_origin(first: str, following: str, what: str) -> str:
    """The address of a listing's next page. Raises StageError for another host's: the token is for the hub alone."""
    import httpx

    try:
        here, there = httpx.URL(first), httpx.URL(first).join(following)
    except (httpx.InvalidURL, ValueError):
        raise StageError(f"{what}: {NO_HUB}") from None
    if (here.scheme, here.host, here.port) != (there.scheme, there.host, there.port):
        raise StageError(
            f"{what}: its listing goes on at another host ({there.host}), which is not asked: "
            f"the token is for {here.host}\n"
            "hint: a mirror that does not rewrite its addresses? Take the hub itself (HF_ENDPOINT)"
        )
    return str(there)


def asked_wait(headers: Mapping[str, str]) -> int:
    """The seconds that a server asks to be left alone for."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    after = headers.get("Retry-After", "").strip()
    return int(after[:40]) if after.isdecimal() else 0  # Python makes no number of digits without end


def sound(path: Path, listed: dict[str, Any]) -> bool:
    """Whether the file is there and is what the hub lists."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != listed["size"]:
        return False
    if "sha256" in listed:
        return sha256(path) == listed["sha256"]
    digest = hashlib.sha1(b"blob %d\0" % listed["size"])
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest() == listed["git"]
