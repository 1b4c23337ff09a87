"""Fetching a pinned revision from the Hugging Face Hub: gone on with, tried again, held against the hub's hashes, kept.

huggingface_hub makes the requests and names their faults. What its own downloads lack (1.33) is here: a part that came
stays when a try or the stage ends, what has come is looked at, and a stage can be stopped while it waits for the
server: by itself it starts every file anew, takes any bytes of the right number, and sleeps as long as a server asks.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ingot.console import bounds, progress
from ingot.console.bounds import Broken, TooMuch
from ingot.console.progress import StageError
from ingot.exact.files import write_json
from ingot.params.core import COMMIT
from ingot.sources.downloads import DOWNLOADS
from ingot.sources.hub_answers import NO_HUB, STRANGE, asked_wait, check_names, checked, entry_of, same_origin, sound

# Seconds before each further try, unless the server asks for more.
WAITS = (1, 2, 4, 8, 16)
# Seconds that a server may ask for before a further try; it may ask for a day, and nobody would know what goes on.
LONGEST = 600
# The server's fault for now; with any other answer a further try is in vain.
PASSING = {408, 429, 500, 502, 503, 504}
# Files at once: one stream does not fill a fast line, and small files wait for answers most of the time.
STREAMS = 4
KEPT = "run again: what is fetched already is kept"
NO_TOKEN = "HF_TOKEN is missing, wrong or expired: make one on the hub's page (Settings, Access Tokens) and set it"


class Snapshot:
    """The files of one repository (`kind` is model or dataset) at one commit, as far as they are fetched.

    A token for private and gated repositories is taken from HF_TOKEN by huggingface_hub itself; HF_ENDPOINT names
    another server. Everything raises StageError that says what to do when the hub refuses or cannot be reached.
    """

    def __init__(self, repo: str, revision: str, kind: str):
        if not re.fullmatch(COMMIT, revision):
            raise StageError(f"{kind} {repo}: its revision is {revision!r}: run `make pin`, which writes its commit")
        self.repo, self.revision, self.kind = repo, revision, kind
        self.folder = DOWNLOADS / kind / repo.replace("/", "--") / revision
        self.what = f"{kind} {repo} at {revision[:12]}"
        self._files: dict[str, dict[str, Any]] | None = None

    def files(self) -> dict[str, dict[str, Any]]:
        """Every file by name: `size`, and `sha256`, or `git` for small ones that git keeps. Asked once, then kept."""
        listing = self.folder.with_suffix(".json")
        if self._files is None and listing.is_file():
            try:
                kept = bounds.read_json(listing, "it is asked for again")
                self._files = check_names({name: checked(entry) for name, entry in kept.items()}, self.what)
            except (Broken, *STRANGE):  # damaged, or of an older version of ours
                listing.unlink()
        if self._files is None:
            self._files = self._tried(self._ask, threading.Event())
            write_json(listing, self._files)
        return self._files

    def fetch(self, names: Iterable[str]) -> Path:
        """Download those that are not there already; returns the folder where all of them lie, verified."""
        files = self.files()
        names = sorted(names)
        missing = [name for name in names if not sound(self.folder / name, files[name])]
        self._room(sum(files[name]["size"] for name in missing))
        if not missing:
            return self.folder
        stopped = threading.Event()
        with progress.bar("fetching") as bar, ThreadPoolExecutor(STREAMS) as streams:
            task = bar.add_task(f"MB of {self.repo}", total=max(sum(files[name]["size"] for name in missing) / 1e6, 1))

            def counted(size: int) -> None:
                bar.advance(task, size / 1e6)

            began = [streams.submit(self._one, name, files[name], counted, stopped) for name in missing]
            try:
                done = wait(began, return_when=FIRST_EXCEPTION).done
                for ended in began:
                    if ended in done:
                        ended.result()
            finally:  # the streams look at it with every piece that comes
                stopped.set()
                streams.shutdown(cancel_futures=True)
        return self.folder

    def put(self, names: Iterable[str], out: Path) -> None:
        """The files `names` into the folder `out`, linked where that can be."""
        names = sorted(names)
        folder = self.fetch(names)
        for name in names:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(folder / name, target)
            except OSError:  # another volume, or another mount of a container
                shutil.copyfile(folder / name, target)

    def _ask(self) -> dict[str, dict[str, Any]]:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        first = address = f"{constants.ENDPOINT}/api/{self.kind}s/{self.repo}/tree/{self.revision}?recursive=True"
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        files: dict[str, dict[str, Any]] = {}
        until, left, seen = time.monotonic() + bounds.LISTING_SECONDS, bounds.LISTING_BYTES, set()
        while address:  # a page after the other
            seen.add(address)
            try:
                answer = bounds.answer(
                    get_session(), "GET", address, left, until - time.monotonic(),
                    headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                )  # fmt: skip
            except TooMuch as error:
                raise StageError(f"{self.what}: its listing: {error}\nhint: {NO_HUB}") from None
            left -= len(answer.content)
            hf_raise_for_status(answer)
            try:
                files |= dict(entry_of(entry) for entry in answer.json() if entry["type"] == "file")
                following = answer.links.get("next", {}).get("url")
            except STRANGE:  # a page, or JSON of another shape
                raise StageError(f"{self.what}: {NO_HUB}") from None
            if len(files) > bounds.LISTING_FILES:
                raise StageError(
                    f"{self.what}: it has more than {bounds.LISTING_FILES:,} files, and more are not read\n"
                    "hint: take a repository with its rows in fewer files"
                )
            address = following and same_origin(first, following, self.what)
            if address in seen:
                raise StageError(f"{self.what}: its listing goes round in a circle\nhint: {NO_HUB}")
        return check_names(files, self.what)

    def _one(self, name: str, listed: dict[str, Any], counted: Callable[[int], None], stopped: threading.Event) -> None:
        """Download one file, and put it into its place when it is what the hub lists."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        part = self.folder.with_suffix(".parts") / hashlib.sha256(name.encode()).hexdigest()
        part.parent.mkdir(parents=True, exist_ok=True)
        address = hf_hub_url(self.repo, name, repo_type=self.kind, revision=self.revision)
        if listed["size"] > constants.MAX_HTTP_DOWNLOAD_SIZE:
            raise StageError(f"{self.what}: {name} has more than 50 GB, which the hub serves by its own protocol alone")

        def transfer() -> None:
            part.touch()
            if part.stat().st_size > listed["size"]:
                os.truncate(part, 0)
            here = part.stat().st_size
            # As it is: packed on the way, a part would have no place in the whole.
            headers = (
                build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
            )
            if here < listed["size"]:
                with (
                    part.open("r+b") as file,
                    get_session().stream(
                        "GET", address, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
                    ) as answer,
                ):
                    if answer.status_code >= 400:
                        hf_raise_for_status(bounds.whole(answer, bounds.ERROR_BYTES, bounds.ERROR_SECONDS))
                    file.seek(here if answer.status_code == 206 else 0)  # it may send the whole all the same
                    file.truncate()
                    until, least = time.monotonic() + bounds.SLOW_SECONDS, file.tell() + bounds.SLOW_BYTES
                    for piece in answer.iter_bytes():  # as they come: a piece of a size would be waited for
                        if stopped.is_set():
                            raise _Stopped
                        if (now := time.monotonic()) > until:
                            if file.tell() < least:
                                raise StageError(
                                    f"{self.what}: {name}: of it less than {progress.bytes_(bounds.SLOW_BYTES)} came "
                                    f"in {bounds.SLOW_SECONDS} s: check the network, or what HF_ENDPOINT and "
                                    f"HTTPS_PROXY name\nhint: {KEPT}"
                                )
                            until, least = now + bounds.SLOW_SECONDS, file.tell() + bounds.SLOW_BYTES
                        counted(len(piece))
                        file.write(piece)
                        if file.tell() > listed["size"]:
                            break
            if not sound(part, listed):
                part.unlink()
                raise _Differs(name)

        self._tried(transfer, stopped, part)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, self.folder / name)

    def _room(self, size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise StageError(
                f"{self.what}: {progress.bytes_(size)} are to be fetched and {progress.bytes_(free)} are free on this "
                "volume: free some (dvc gc --workspace drops what earlier runs made)"
            )

    def _tried(self, do: Callable, stopped: threading.Event, part: Path | None = None) -> Any:
        """What `do` returns, after more tries where a fault may pass; `part` is the file that it writes to."""
        import httpx
        from huggingface_hub import get_token
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        token = get_token()
        if token and not re.fullmatch(r"[!-~]+", token):
            raise StageError("HF_TOKEN holds characters that no token has: set it to one line, as the hub shows it")

        def said(error: BaseException) -> str:
            """Without the token, should a server or proxy have sent it back, and what opens an address for a while."""
            text = re.sub(r"(https?://[^\s'\"?]+)\?[^\s'\"]+", r"\1", str(error)[:2000] or type(error).__name__)
            return text.replace(token, "…") if token else text

        reached, waits = 0, iter(WAITS)
        while True:
            asked = 0
            try:
                return do()
            except GatedRepoError:
                raise StageError(
                    f"{self.what}: gated; accept its terms on its page, then set HF_TOKEN to a token of yours"
                ) from None
            except RevisionNotFoundError:
                raise StageError(
                    f"{self.what}: the repository has no such commit; copy it from the repository's history page"
                ) from None
            except RepositoryNotFoundError as error:
                if token and error.response.status_code == 401:  # with a token that it knows, the hub says 404
                    raise StageError(f"{self.what}: {NO_TOKEN}") from None
                raise StageError(
                    f"{self.what}: no such repository, or a private one; check the name, or set HF_TOKEN"
                ) from None
            except HfHubHTTPError as error:
                status, fault = error.response.status_code, said(error)
                if status == 416 and part is not None:
                    part.unlink()  # it is no start of the file
                elif status == 401:
                    raise StageError(f"{self.what}: {NO_TOKEN}") from None
                elif status not in PASSING:
                    raise StageError(f"{self.what}: {fault}" + ("" if 400 <= status < 500 else f"; {KEPT}")) from None
                asked = asked_wait(error.response.headers)
                if asked > LONGEST:
                    raise StageError(f"{self.what}: the hub asks to wait {asked} s; run again then") from None
            except (httpx.RequestError, OSError) as error:
                fault = said(error)
                hopeless = (httpx.ProxyError, httpx.UnsupportedProtocol, httpx.TooManyRedirects)
                if isinstance(error, hopeless) or (part is None and isinstance(error, httpx.ConnectError | OSError)):
                    raise StageError(
                        f"{self.what}: the hub cannot be reached ({fault}); "
                        f"check the network (HF_ENDPOINT, HTTPS_PROXY); {KEPT}"
                    ) from None
                if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError):
                    raise StageError(f"{self.what}: {fault}") from None  # the disk's fault, not the network's
            except _Differs as error:
                fault = (
                    f"{error}: what comes is not what the hub lists (its size or hash differs): a proxy or mirror "
                    "(HF_ENDPOINT) changes it, or the file there is damaged"
                )
            here = part.stat().st_size if part is not None and part.is_file() else 0
            if here > reached:  # a line that is cut now and then brings the whole in the end
                reached, waits = here, iter(WAITS)
            pause = next(waits, None)
            if pause is None:
                raise StageError(f"{self.what}: {fault}; tried {len(WAITS) + 1} times; {KEPT}")
            pause = max(pause, asked)
            progress.console.print(f"  {fault.strip().splitlines()[0]}; again in {pause} s", markup=False)
            if stopped.wait(pause):
                raise _Stopped


class _Differs(Exception):
    """A file whose bytes are not those that the hub lists."""


class _Stopped(Exception):
    """Another file has failed, or the stage is to end."""


def fetch(repo: str, revision: str, kind: str, out: Path, patterns: list[str]) -> None:
    """Put the files at the top of `repo` whose names match into the folder `out`."""
    snapshot = Snapshot(repo, revision, kind)
    names = [
        name for name in snapshot.files() if "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    snapshot.put(names, out)
