"""Bundles and the page over HTTP on loopback, with the headers that threads in a browser need.

Folders are served as they are, by ranges where these are asked for. Nothing outside them is, and
nobody but this machine is answered: a page of another site that resolves its name to this address
is refused by its Host.
"""

import json
import mimetypes
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import unquote, urlsplit

CHUNK = 1 << 18
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
INDEX, LISTING = "index.html", "bundles.json"
TYPES = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Accept-Ranges": "bytes",
}


class BundleServer(ThreadingHTTPServer):
    """A server of folders.

    root: what is served at /, the page or one bundle. bundles: others by name, each at
    /bundles/NAME/; the page finds them in /bundles.json. port: 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, root: Path, bundles: Mapping[str, Path], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.root = root.resolve()
        self.bundles = {name: path.resolve() for name, path in bundles.items()}
        self.headers: dict[str, str] = dict(HEADERS)

    @property
    def address(self) -> str:
        """The URL of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    @contextmanager
    def in_background(self) -> Iterator[Self]:
        """Serve in another thread, until the block is left."""
        thread = threading.Thread(target=self.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def find(self, path: str) -> Path | None:
        """The file that a path names, None where it names none of these folders'."""
        parts = [part for part in unquote(path).split("/") if part]
        folder = self.root
        if parts[:1] == ["bundles"] and len(parts) > 1 and parts[1] in self.bundles:
            folder, parts = self.bundles[parts[1]], parts[2:]
        if any(part in ("..", ".") or "\\" in part or "\0" in part for part in parts):
            return None
        file = folder.joinpath(*(parts or [INDEX]))
        inside = file.resolve().is_relative_to(folder)
        return file if inside and file.is_file() else None


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: BundleServer

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the page tells what it loads."""

    def send_file(self, file: Path, with_body: bool) -> None:
        """Answer with a file, or the range of it that is asked for."""
        with file.open("rb") as opened:
            size = file.stat().st_size
            start, end = 0, size
            asked = self.headers.get("Range")
            if asked is not None:
                found = _range(asked, size)
                if found is None:
                    self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, file)
                    return
                start, end = found
                self._head(
                    HTTPStatus.PARTIAL_CONTENT, end - start, file, f"{start}-{end - 1}/{size}"
                )
            else:
                self._head(HTTPStatus.OK, size, file)
            if with_body:
                self._copy(opened, start, end)

    def _answer(self, with_body: bool) -> None:
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        path = urlsplit(self.path).path
        if host not in LOOPBACK:
            self._say(HTTPStatus.FORBIDDEN, b"", "text/plain")
        elif path == f"/{LISTING}":
            names = [{"name": name, "url": f"bundles/{name}/"} for name in self.server.bundles]
            self._say(HTTPStatus.OK, json.dumps(names).encode(), "application/json")
        elif (file := self.server.find(path)) is not None:
            self.send_file(file, with_body)
        else:
            self._say(HTTPStatus.NOT_FOUND, b"there is no such file", "text/plain")

    def _say(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self._common(len(content), kind)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(self, status: HTTPStatus, nbytes: int, file: Path, part: str = "") -> None:
        self.send_response(status)
        if part:
            self.send_header("Content-Range", f"bytes {part}")
        guessed = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._common(nbytes, TYPES.get(file.suffix, guessed))

    def _common(self, nbytes: int, kind: str) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(nbytes))
        self.end_headers()

    def _copy(self, file: BinaryIO, start: int, end: int) -> None:
        file.seek(start)
        try:
            while start < end and (chunk := file.read(min(CHUNK, end - start))):
                self.wfile.write(chunk)
                start += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser has enough


def _range(text: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one behind the last of a single range, None on anything else."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", text.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    return (start, end) if start < end else None
