"""A small server that speaks Ollama's protocol, for registering by the real client; it misbehaves where it is told to.

It stands in for Ollama, which no package registry of ours carries: written after the handlers in ollama's source
(server/routes.go, server/create.go), it checks what they check, and its rendering and answers are what a test gives it.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Message = dict[str, str]


def chatml(messages: list[Message]) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"


class Ollama:
    """`render` makes the prompt of a conversation that begins with the system prompt, `answer` the reply to it.

    `faults` maps version, head, blob, create, render or chat to what it meets, once: a status; or `cut` (the connection
    ends midway), `page` (another server's HTML), `slow` (`pause` seconds go by first); of blob `damaged` (other bytes
    arrive); of create `error` (inside a stream that began with 200) and `silent` (it ends without a success); of render
    `old` (the flag is ignored, as before it was there) and `wrong`. Of all that answer with JSON also bytes, which are
    sent in its place, `endless` (a stream without end) and `trickle` (a byte now and then, without end).
    """

    def __init__(self, render: Callable[[list[Message]], str] = chatml, answer: Callable[[list[Message]], str] = len):
        self.render, self.answer = render, answer
        self.version = "0.30.2"
        self.blobs: dict[str, int] = {}
        self.models: dict[str, dict] = {}
        self.faults: dict[str, int | str | bytes] = {}
        self.asked: list[tuple[str, dict]] = []  # every request's path and body
        self.pause = 0.5

    def fault(self, place: str) -> int | str | bytes:
        found = self.faults.pop(place, "")
        if found == "slow":
            time.sleep(self.pause)
            return ""
        return found

    def strange(self, request, fault: int | str | bytes) -> bool:
        """Whether the fault is one of those that any answer may have; then it is sent."""
        if isinstance(fault, bytes):
            request.send(200, fault)
        elif fault in ("endless", "trickle"):
            request.begin()
            piece = b'{"status": "x"}\n' * 1000 if fault == "endless" else b" "
            while True:  # until the client has gone
                request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                time.sleep(0.05 if fault == "trickle" else 0)
        else:
            return False
        return True

    def head(self, request) -> None:
        digest = request.path.removeprefix("/api/blobs/")
        if isinstance(status := self.fault("head"), int):
            return request.send(status, b"")
        request.send(200 if digest in self.blobs else 404, b"")

    def get(self, request) -> None:
        fault = self.fault("version")
        if self.strange(request, fault):
            return None
        if fault == "page":
            return request.send(200, b"<html>welcome</html>")
        if isinstance(fault, int):
            return request.error(fault, "no such page")
        request.json({"version": self.version} if request.path == "/api/version" else {"models": list(self.models)})

    def post(self, request) -> None:
        if request.path.startswith("/api/blobs/"):
            return self.take(request)
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.asked.append((request.path, body))
        if request.path == "/api/create":
            return self.create(request, body)
        return self.chat(request, body)

    def take(self, request) -> None:
        digest, size = request.path.removeprefix("/api/blobs/"), int(request.headers["Content-Length"])
        fault = self.fault("blob")
        if isinstance(fault, int):
            return request.error(fault, "no space left on device")
        if fault == "cut":
            request.rfile.read(size // 2)
            return request.reset()
        got, left = hashlib.sha256(), size
        while left:
            chunk = request.rfile.read(min(left, 1 << 16))
            got.update(chunk[::-1] if fault == "damaged" else chunk)
            left -= len(chunk)
        if digest != f"sha256:{got.hexdigest()}":
            return request.error(400, f'digest mismatch, expected "{digest}", got "sha256:{got.hexdigest()}"')
        self.blobs[digest] = size
        request.send(201, b"")

    def create(self, request, body: dict) -> None:
        fault = self.fault("create")
        if self.strange(request, fault):
            return None
        if isinstance(fault, int):
            return request.error(fault, "internal error")
        if not re.fullmatch(r"[\w./:-]+", body["model"]):
            return request.error(400, "invalid model name")
        for file, digest in body["files"].items():
            if "/" in file[:1] or digest not in self.blobs:
                return request.error(400, f"blob not found for {file} (digest {digest})")
        request.begin()
        request.line({"status": "parsing GGUF"})
        if fault == "error":
            request.line({"error": "unsupported architecture", "status": 400})
        elif fault == "cut":
            return request.reset()
        elif fault != "silent":
            request.line({"status": "writing manifest"})
            self.models[body["model"]] = body
            request.line({"status": "success"})
        request.end()

    def chat(self, request, body: dict) -> None:
        if body["model"] not in self.models:
            return request.error(404, f"model '{body['model']}' not found")
        model, messages = self.models[body["model"]], body["messages"]
        if messages[0]["role"] != "system" and model.get("system"):
            messages = [{"role": "system", "content": model["system"]}, *messages]
        shown = body.get("_debug_render_only")
        fault = self.fault("render" if shown else "chat")
        if self.strange(request, fault):
            return None
        if isinstance(fault, int):
            return request.error(fault, "llama runner process has terminated")
        if fault == "cut":
            return request.reset()
        if shown and fault != "old":
            text = self.render(messages)
            text = text.replace("<|im_start|>user", "<|user|>") if fault == "wrong" else text
            return request.json({"model": body["model"], "_debug_info": {"rendered_template": text}})
        request.json({"message": {"role": "assistant", "content": self.answer(messages)}, "done": True})


@contextmanager
def serving(ollama: Ollama):
    """The server on a free port of this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            ollama.head(self)

        def do_GET(self):
            ollama.get(self)

        def do_POST(self):
            ollama.post(self)

        def send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def json(self, value: dict) -> None:
            self.send(200, json.dumps(value, ensure_ascii=False).encode())

        def error(self, status: int, reason: str) -> None:
            self.send(status, json.dumps({"error": reason}).encode())
            self.close_connection = True  # of a body that was not read

        def begin(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def line(self, value: dict) -> None:
            data = json.dumps(value).encode() + b"\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def end(self) -> None:
            self.wfile.write(b"0\r\n\r\n")

        def reset(self) -> None:
            time.sleep(0.05)  # for the client to read what it was sent
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # a connection that a fault has closed

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
