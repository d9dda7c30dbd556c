"""A server on loopback that speaks the part of the Hub's protocol that its client uses.

Two ports, as on the Hub: one answers questions and redirects to the other, which stores the
weights. ``faults`` makes it misbehave as a busy or broken Hub does.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".model", ".h5", ".msgpack", ".onnx")  # on the storage host


@dataclass
class Fault:
    """What happens to a request whose path matches, for so many times."""

    pattern: str
    status: int = 0  # 0: the connection is cut after ``cut`` bytes of the body
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    times: int = 1_000_000


@dataclass
class Hub:
    """Repositories by name, the requests that were made, and the faults to come."""

    repos: dict[str, Path]
    url: str = ""
    storage: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    tokens: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    claimed_size: int | None = None  # bytes that it says each large file has

    def fault(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, path):
                fault.times -= 1
                return fault
        return None

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {
            path.rsplit(f"/{COMMIT}/")[1]
            for method, path, _ in self.requests
            if method == "GET"
            if f"/{COMMIT}/" in path and not path.startswith("/api/")
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if token := self.headers.get("Authorization"):
            self.hub.tokens.add(token)
        fault = self.hub.fault(f"{self.command} {self.path}")
        if fault and fault.status:
            return self.reply(fault.status, b"{}", **fault.headers)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", self.path.split("?")[0]):
            return self.api(match[1], match[2] or "")
        match = re.fullmatch(r"/([^/]+/[^/]+)/(resolve|stored)/[^/]+/(.+)", self.path)
        if not match or not (path := self.hub.repos[match[1]] / match[3]).is_file():
            return self.reply(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
        return self.content(path, match[2] == "stored", fault.cut if fault else None)

    def api(self, repo: str, rest: str):
        if repo not in self.hub.repos:
            return self.reply(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
        files = [p for p in sorted(self.hub.repos[repo].rglob("*")) if p.is_file()]
        names = [str(p.relative_to(self.hub.repos[repo])) for p in files]
        if rest.startswith("/revision/") and rest.split("/")[2] not in (COMMIT, "main"):
            return self.reply(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
        if rest.startswith("/tree/"):
            entries = [self.entry(path, name) for path, name in zip(files, names, strict=True)]
            return self.reply(200, json.dumps(entries).encode())
        info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        return self.reply(200, json.dumps(info).encode())

    def entry(self, path: Path, name: str) -> dict:
        size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        entry = {"type": "file", "path": name, "size": size, "oid": digest[:40]}
        if path.suffix in LARGE:
            entry["lfs"] = {"oid": digest, "sha256": digest, "size": size, "pointerSize": 130}
        return entry

    def content(self, path: Path, stored: bool, cut: int | None):
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        head = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if path.suffix in LARGE and not stored:
            location = self.hub.storage + self.path.replace("/resolve/", "/stored/")
            size = self.hub.claimed_size or len(data)
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(size)}
            return self.reply(302, b"", Location=location, **head, **linked)
        status, start = 200, 0
        if wanted := self.headers.get("Range"):
            status, start = 206, int(re.fullmatch(r"bytes=(\d+)-.*", wanted)[1])
            head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.reply(status, data[start:], cut, **head)

    def reply(self, status: int, body: bytes, cut: int | None = None, **headers: str):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def serving(repos: dict[str, Path]):
    """A Hub with these repositories, for as long as the block runs."""
    hub = Hub(repos)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    for server in servers:
        server.hub, server.daemon_threads = hub, True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
