"""A small server that speaks the hub's protocol, for fetching by the real client; it misbehaves where it is told to."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`files` of one repository at COMMIT; those of `lfs` are listed with a SHA-256, the others with git's hash.

    `faults` maps a file's name, "tree" for the listing or "revision" for the commit, to what it meets, one after the
    other, before it is served whole: a status; (status, headers); or, while its bytes are sent, `cut` and `reset` (in
    the middle), `wrong` (other bytes), `short` (fewer, and said so), `stall` (nothing for `pause` seconds), `slow` (a
    part every `pause` seconds). Listing and commit also meet `cut` (before any answer), bytes, which are sent in their
    place, `endless` (an answer without end), `trickle` (a byte now and then) and `headers` (the same within its
    headers).
    """

    def __init__(self, repo: str, kind: str, files: dict[str, bytes], token: str | None = None):
        self.repo, self.kind, self.files, self.token = repo, kind, files, token
        self.lfs: set[str] = set()
        self.branches = {"main": COMMIT}
        self.faults: dict[str, list] = {}
        self.served: list[str] = []
        self.starts: list[int] = []  # where each transfer of a file began
        self.pause = 3.0
        self.page = 1000  # files of the listing in one answer
        self.next: str | None = None  # the listing's next page is always at this address
        self.elsewhere: str | None = None  # a large file is sent for to this address, as the hub does
        self.asked: list[str | None] = []  # the Authorization of each transfer

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path, _, query = request.path.partition("?")
        path = unquote(path)
        if path.startswith("/elsewhere/"):
            self.asked.append(request.headers.get("Authorization"))
            return self.file(request, path.removeprefix("/elsewhere/"), body)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.error(request, 401, {"X-Error-Code": "GatedRepo"})
        if match := re.fullmatch(rf"/api/{self.kind}s/([^/]+/[^/]+)/(revision|tree)/(.+)", path):
            if match[1] != self.repo:
                return self.error(request, 404, {"X-Error-Code": "RepoNotFound"})
            if match[3] not in (COMMIT, *self.branches):
                return self.error(request, 404, {"X-Error-Code": "RevisionNotFound"})
            headers = {"Content-Type": "application/json"}
            if self.faults.get(match[2]):
                status, headers, how = self.fault(match[2])
                if how == "cut":
                    return request.connection.shutdown(socket.SHUT_RDWR)
                if how in ("endless", "trickle", "headers"):
                    return self.without_end(request, how)
                return self.send(request, how, headers, body) if how else self.error(request, status, headers)
            if match[2] == "tree":
                told = [self.entry(name, data) for name, data in self.files.items()]
                start = int(query.partition("from=")[2] or 0)
                if start + self.page < len(told):
                    address = f"http://{request.headers['Host']}{request.path.partition('?')[0]}"
                    headers["Link"] = f'<{address}?recursive=True&from={start + self.page}>; rel="next"'
                if self.next:
                    headers["Link"] = f'<{self.next.replace("{host}", request.headers["Host"])}>; rel="next"'
                told = told[start : start + self.page]
            else:
                sha = self.branches.get(match[3], COMMIT)
                told = {"id": self.repo, "sha": sha, "siblings": [{"rfilename": name} for name in self.files]}
            return self.send(request, json.dumps(told).encode(), headers, body)
        prefix = "/datasets" if self.kind == "dataset" else ""
        if match := re.fullmatch(rf"{prefix}/{self.repo}/resolve/{COMMIT}/(.+)", path):
            name = match[1]
            if name not in self.files:
                return self.error(request, 404, {"X-Error-Code": "EntryNotFound"})
            return self.file(request, name, body)
        return self.error(request, 404, {"X-Error-Code": "RepoNotFound"})

    @staticmethod
    def without_end(request, how: str) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"X-A: " if how == "headers" else b"\r\n["))
        while True:  # until the client has gone
            request.wfile.write(b" " * (1 << 16) if how == "endless" else b"x" if how == "headers" else b" ")
            time.sleep(0 if how == "endless" else 0.05)

    def file(self, request, name: str, body: bool) -> None:
        data = self.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.etag(name, data)}"', "Accept-Ranges": "bytes"}
        if not body:
            return self.send(request, data, headers, body)
        if self.elsewhere and not request.path.startswith("/elsewhere/"):
            return self.error(request, 302, {"Location": f"{self.elsewhere}/elsewhere/{name}"})
        status, headers_, how = self.fault(name)
        if status:
            return self.error(request, status, headers_)
        self.served.append(name)
        start = int(re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "bytes=0-"))[1])
        self.starts.append(start)
        if start:
            headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if how == "wrong":
            data = bytes(255 - byte for byte in data)
        if how == "short":
            data = data[: len(data) // 2]
        data = data[start:]
        request.send_response(206 if start else 200)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            request.send_header(key, value)
        request.end_headers()
        half = data[: len(data) // 2]
        if how == "stall":
            time.sleep(self.pause)
        elif how == "slow":
            for at in range(0, len(data), len(data) // 10):
                request.wfile.write(data[at : at + len(data) // 10])
                time.sleep(self.pause)
            return None
        elif how in ("cut", "reset"):
            request.wfile.write(half)
            request.wfile.flush()
            time.sleep(0.1)  # for the client to read it
            if how == "reset":
                request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                request.connection.close()
            return None
        request.wfile.write(data)

    def fault(self, name: str) -> tuple[int, dict[str, str], str]:
        """The next fault: (status, headers, what happens to the bytes)."""
        next_ = self.faults[name].pop(0) if self.faults.get(name) else ""
        if isinstance(next_, int):
            return next_, {}, ""
        return (*next_, "")[:3] if isinstance(next_, tuple) else (0, {}, next_)

    def entry(self, name: str, data: bytes) -> dict:
        git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        entry = {"type": "file", "path": name, "size": len(data), "oid": git}
        if name in self.lfs:
            entry["lfs"] = {"oid": self.etag(name, data), "size": len(data), "pointerSize": 134}
        return entry

    def etag(self, name: str, data: bytes) -> str:
        if name in self.lfs:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()

    @staticmethod
    def send(request, data: bytes, headers: dict[str, str], body: bool) -> None:
        request.send_response(200)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)

    @staticmethod
    def error(request, status: int, headers: dict[str, str], _: str = "") -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", "0")
        request.end_headers()


@contextmanager
def serving(hub: Hub):
    """The hub on a free port of this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            hub.answer(self, body=True)

        def do_HEAD(self):
            hub.answer(self, body=False)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # a client that was killed, or a connection that a fault has closed

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
