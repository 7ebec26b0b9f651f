"""A file server on the loopback that behaves well or badly, as each path is told."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


Answer = Callable[["Handler", bytes], bool]
"""Answers instead of the usual way; False: the usual way."""


@dataclass
class Server:
    """Files by path, and for a path what happens to its next requests (GET alone), one after another."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    next: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    etags: bool = True

    def got(self, path: str) -> list[Asked]:
        """Requests for the content of a path."""
        return [each for each in self.asked if each.path == path and each.method == "GET"]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server_state: Server

    def do_HEAD(self) -> None:
        """Size and version alone."""
        self._answer()

    def do_GET(self) -> None:
        """What the path is told, or the file."""
        self._answer()

    def _answer(self) -> None:
        state = self.server_state
        path = re.sub(r"^http://[^/]+", "", self.path)  # as a proxy is asked
        state.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        body = state.files.get(path)
        waiting = state.next.get(path, [])
        if self.command == "GET" and waiting and waiting.pop(0)(self, body or b""):
            return
        if body is None:
            self.send(404, b"nothing")
        else:
            self.file(body)

    def file(self, body: bytes, *, only: int | None = None) -> None:
        """A file, or the piece that is asked for; `only`: so many bytes of it, then the line is cut."""
        etag = f'"{hash(body)}"'
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(found[1]) if found and self.headers.get("If-Range") in (None, etag) else 0
        if found and start >= len(body):
            self.send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        headers = {"ETag": etag} if self.server_state.etags else {}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send(206 if start else 200, body[start:], headers, only=only)

    def send(
        self, code: int, body: bytes, headers: dict[str, str] | None = None, *, only: int | None = None
    ) -> None:
        """An answer; its length is that of the whole body."""
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if only is None else body[:only])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def cut(count: int) -> Answer:
    """The line is cut after so many bytes."""

    def answer(handler: Handler, body: bytes) -> bool:
        handler.file(body, only=count)
        return True

    return answer


def status(code: int, body: bytes = b"no", **headers: str) -> Answer:
    """Another answer than the file."""

    def answer(handler: Handler, _: bytes) -> bool:
        handler.send(code, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return answer


def usual(handler: Handler, body: bytes) -> bool:
    """The file, as if nothing had been told."""
    return False


@contextmanager
def serving() -> Iterator[Server]:
    """A server while the block runs."""
    state = Server()
    handler = type("OwnHandler", (Handler,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
