"""Ollama's HTTP API, as far as it is needed."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ingot.console import bounds
from ingot.console.bounds import TooMuch
from ingot.console.messages import Fault, plain, terminal

# A server says nothing while it writes or loads a model of tens of GB.
PATIENCE = httpx.Timeout(connect=10, read=900, write=900, pool=10)
CHUNK = 1 << 20

console = terminal(markup=False)  # what servers answer is no markup


class OllamaError(Fault):
    """What the server, the name or the build lacks, or where the server differs from the build."""


def address(said: str) -> str:
    """The server's URL as Ollama's own client reads OLLAMA_HOST: [scheme://]host[:port][/path]. Raises OllamaError."""
    said = said.strip().strip("\"'").strip()
    scheme, given, rest = said.rpartition("://")
    scheme = scheme.lower() if given else "http"
    if scheme not in ("http", "https"):
        raise OllamaError(f"OLLAMA_HOST={said}: {scheme}:// is not spoken: write http:// or https://, or none")
    port = {"http": "80", "https": "443"}[scheme] if given else "11434"
    place, slash, path = rest.partition("/")
    if place == "ollama.com" and not given:
        scheme, port = "https", "443"
    if not place.endswith("]") and (place.count(":") == 1 or "]:" in place):
        place, _, port = place.rpartition(":")
    if not (port.isdecimal() and int(port) < 65536):
        raise OllamaError(f"OLLAMA_HOST={said}: {port!r} is no port: write a number up to 65535")
    host = place.strip("[]") or "127.0.0.1"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        pass  # a name
    else:
        if ip.is_unspecified:  # where a server listens; nobody can be called there
            ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
        host = f"[{ip}]" if ip.version == 6 else str(ip)
    return f"{scheme}://{host}:{port}{(slash + path).rstrip('/')}"


class Server:
    """Ollama's HTTP API, as far as it is needed; what goes wrong is an OllamaError that says what was being done."""

    def __init__(self, url: str):
        self.url = url
        # A proxy is for other machines.
        near = re.match(r"https?://(127\.|localhost[:/]|\[::1\])", url) is not None
        try:
            self.client = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=not near)
        except (httpx.InvalidURL, ValueError) as error:
            raise OllamaError(f"OLLAMA_HOST: {url}: {error}") from None

    def version(self) -> str:
        answer = self._json("GET", "/api/version", "asking for its version")
        if not isinstance(answer.get("version"), str):
            raise OllamaError(f"{self.url} answers, but not as Ollama does: is another server there?")
        return answer["version"]

    def has(self, digest: str) -> bool:
        with self._doing("asking for the file's blob"):
            response = self.client.head(f"/api/blobs/{digest}")
        if response.status_code not in (200, 404):
            raise self._refused(response, "asking for the file's blob")
        return response.status_code == 200

    def upload(self, file: Path, digest: str) -> None:
        """Send the file, a megabyte at a time. The server checks it by its digest."""
        size = file.stat().st_size
        with self._doing(f"sending {file.name}"), bar(f"sending {file.name}", size) as advance:
            content = chunks(file, advance)
            headers = {"Content-Length": str(size)}
            with self.client.stream("POST", f"/api/blobs/{digest}", content=content, headers=headers) as streamed:
                response = bounds.whole(streamed, bounds.ANSWER_BYTES, bounds.ANSWER_SECONDS)
        if response.status_code not in (200, 201):
            raise self._refused(response, f"sending {file.name}")

    def create(self, request: dict[str, Any]) -> None:
        """Make the model of its blob; each new status is a line."""
        doing, last = f"creating {request['model']}", ""
        until = time.monotonic() + bounds.CREATE_SECONDS
        with self._doing(doing), self.client.stream("POST", "/api/create", json=request) as response:
            if response.status_code != 200:
                raise self._refused(bounds.whole(response, bounds.ANSWER_BYTES, bounds.ANSWER_SECONDS), doing)
            for number, line in enumerate(_lines(response)):
                if number > bounds.STATUS_LINES or time.monotonic() > until:
                    raise TooMuch("its statuses do not end")
                if not line.strip():
                    continue
                said = json.loads(line)
                if not isinstance(said, dict):
                    raise OllamaError(f"{self.url}: {doing}: the server says {line[:80]!r}, which is no status")
                if "error" in said:  # inside a 200
                    raise OllamaError(f"{self.url}: {doing}: {_brief(said['error'])}")
                if said.get("status") not in (None, last):
                    last = str(said["status"])[:200]
                    console.print(f"  {last}")
        if last != "success":
            raise OllamaError(f"{self.url}: {doing}: the server stopped after {last or 'nothing'!r}, without a success")

    def rendered(self, request: dict[str, Any]) -> str | None:
        """A conversation's prompt as the server would give it to the model; None from one that does not show it."""
        # One token, where the server answers instead.
        asked = request | {
            "stream": False,
            "truncate": False,
            "_debug_render_only": True,
            "options": {"num_predict": 1},
        }
        said = self._json("POST", "/api/chat", "rendering a conversation", asked)
        shown = said.get("_debug_info") or {}
        text = shown.get("rendered_template") if isinstance(shown, dict) else shown
        if not isinstance(text, str | None):
            raise OllamaError(f"{self.url}: rendering a conversation: what it shows is no text: {_brief(text)}")
        return text

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        """The message that the model answers with: `content`, and `thinking` where the server took that out."""
        said = self._json("POST", "/api/chat", "asking it a question", request | {"stream": False}).get("message")
        if not isinstance(said, dict):
            raise OllamaError(f"{self.url}: asking it a question: there is no message in the answer")
        for key in ("content", "thinking"):
            if not isinstance(said.get(key), str | None):
                raise OllamaError(f"{self.url}: asking it a question: its {key} is no text: {_brief(said[key])}")
        return {key: said.get(key) or "" for key in ("content", "thinking")}

    def _json(self, method: str, path: str, doing: str, request: dict | None = None) -> dict[str, Any]:
        seconds = bounds.VERSION_SECONDS if method == "GET" else bounds.ANSWER_SECONDS
        with self._doing(doing):
            response = bounds.answer(self.client, method, path, bounds.ANSWER_BYTES, seconds, json=request)
            if response.status_code != 200:
                raise self._refused(response, doing)
            said = response.json()
        if not isinstance(said, dict) or "error" in said:
            raise OllamaError(f"{self.url}: {doing}: {_brief(said['error'] if isinstance(said, dict) else said)}")
        return said

    def _refused(self, response: httpx.Response, doing: str) -> OllamaError:
        try:
            reason = _brief(response.json()["error"])
        except (
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
        ):  # not Ollama's own: a proxy's, or another server's page
            reason = " ".join(response.text.split())[:200] or "no reason given"
        return OllamaError(f"{self.url}: {doing}: {response.status_code}: {reason}")

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise OllamaError(
                f"no Ollama answers at {self.url} ({error}): start it with `ollama serve`, or name another: "
                "OLLAMA_HOST=host:port"
            ) from None
        except httpx.TimeoutException:
            raise OllamaError(f"{self.url}: {what}: nothing came for {PATIENCE.read:.0f} s") from None
        except (httpx.InvalidURL, UnicodeError) as error:
            raise OllamaError(f"OLLAMA_HOST: {self.url}: no address ({error})") from None
        except httpx.HTTPError as error:
            raise OllamaError(f"{self.url}: {what}: the connection was cut ({error}): run it again") from None
        except TooMuch as error:
            raise OllamaError(f"{self.url}: {what}: {error}\nhint: is another server there?") from None
        except (ValueError, RecursionError):  # of bytes that are no text, and of lists in lists without end, too
            raise OllamaError(f"{self.url}: {what}: the answer is no JSON: is another server there?") from None


def _lines(response: httpx.Response) -> Iterator[str]:
    """The lines of a stream, none of them without end."""
    rest = b""
    for piece in response.iter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > bounds.STATUS_CHARACTERS:
            raise TooMuch(f"a line has more than {bounds.STATUS_CHARACTERS:,} characters")
        yield from (line.decode("utf-8", "replace") for line in whole)
    yield rest.decode("utf-8", "replace")


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 500 else f"{text[:500]}…"


def chunks(file: Path, advance) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            yield chunk
            advance(len(chunk))


@contextmanager
def bar(what: str, size: int):
    """A bar over bytes; yields what moves it on."""
    columns = [TextColumn("  {task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(plain(what), total=size)
        yield lambda more: progress.advance(task, more)
