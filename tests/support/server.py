"""A server in a process of its own, as a user starts it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

COMMAND = [sys.executable, "-W", "error", "-m", "llmkg_lab.cli", "serve", "--port", "0"]


class Server:
    """``llmkg-lab serve`` with the arguments given, ready to be asked."""

    def __init__(self, folder: Path, *arguments: object, environment=None) -> None:
        self._log = folder / f"server-{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stderr=log,
                stdout=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
            )
        try:
            self.port = self._wait_for("listening")["port"]
            self.url = f"http://127.0.0.1:{self.port}"
            self._wait_for("ready")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End what a test that failed left."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def logs(self) -> list[dict]:
        """All lines of the log so far, each of them JSON."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def text(self) -> str:
        return self._log.read_text()

    def _wait_for(self, message: str) -> dict:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.text()
            with contextlib.suppress(ValueError):  # a line that is being written
                for entry in self.logs():
                    if entry["message"] == message:
                        return entry
            time.sleep(0.02)
        raise AssertionError(self.text())

    def ask(self, method: str, path: str, body=None, **headers) -> tuple[int, dict, bytes]:
        """Status, headers and body. body: JSON, or bytes as they are."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, content, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def json(self, path: str, body=None, **headers) -> dict:
        """The answer to a request that must be good."""
        method = "GET" if body is None else "POST"
        status, _, content = self.ask(method, path, body, **headers)
        assert status == 200, content
        return json.loads(content)

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value now, summed over the labels that are not given."""
        from prometheus_client.parser import text_string_to_metric_families as families

        _, _, content = self.ask("GET", "/metrics")
        return sum(
            sample.value
            for family in families(content.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def until(self, condition, seconds: float = 10) -> float:
        """Wait until ``condition()`` holds; the seconds that took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds
            time.sleep(0.01)
        return time.monotonic() - start

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Signal the process; its exit code. Nothing may have come to stdout, or have failed."""
        self.process.send_signal(number)
        try:
            stdout, _ = self.process.communicate(timeout=seconds)
        finally:
            self.kill()
        assert stdout == b""
        assert "Traceback" not in self.text()
        return self.process.returncode


@contextlib.contextmanager
def serving(folder: Path, *arguments: object):
    """A server for the time of a test; at the end it ends well, unless the test ended it."""
    server = Server(folder, *arguments)
    try:
        yield server
        if server.process.returncode is None:
            assert server.end() == 0, server.text()
    finally:
        server.kill()
