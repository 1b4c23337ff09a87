"""A small server that speaks the hub's protocol, for fetching by the real client: repositories from plain folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`files` of one repository at COMMIT; `faults` maps a file's name to statuses answered before it is served."""

    def __init__(self, repo: str, kind: str, files: dict[str, bytes], token: str | None = None):
        self.repo, self.kind, self.files, self.token = repo, kind, files, token
        self.faults: dict[str, list[int]] = {}
        self.served: list[str] = []

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path, _, _ = request.path.partition("?")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.error(request, 401, "GatedRepo")
        if match := re.fullmatch(rf"/api/{self.kind}s/(.+?)/(?:revision|tree)/([^/]+)(/.*)?", path):
            if match[1] != self.repo:
                return self.error(request, 404, "RepoNotFound")
            if match[2] not in (COMMIT, "main"):
                return self.error(request, 404, "RevisionNotFound")
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": self.etag(data)}
                    for name, data in self.files.items()
                ]
                return self.send(request, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            info = {"id": self.repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            return self.send(request, json.dumps(info).encode(), {"Content-Type": "application/json"}, body)
        prefix = "/datasets" if self.kind == "dataset" else ""
        if match := re.fullmatch(rf"{prefix}/{self.repo}/resolve/{COMMIT}/(.+)", path):
            name = match[1]
            if name not in self.files:
                return self.error(request, 404, "EntryNotFound")
            if body and self.faults.get(name):
                return self.error(request, self.faults[name].pop(0), "")
            data = self.files[name]
            if body:
                self.served.append(name)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.etag(data)}"'}
            return self.send(request, data, headers, body)
        return self.error(request, 404, "RepoNotFound")

    @staticmethod
    def etag(data: bytes) -> str:
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
    def error(request, status: int, code: str) -> None:
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
