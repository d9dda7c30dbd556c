"""The server as a process, or as several: uvicorn, told to end what runs before it goes."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvicorn

from llmkg_lab.base.errors import LabError
from llmkg_lab.serve import logs
from llmkg_lab.serve.settings import Settings

if TYPE_CHECKING:
    from llmkg_lab.serve.http.app import Extension

log = logging.getLogger(__name__)
VARIABLE = "LLMKG_LAB_SERVE"  # the settings, for worker processes
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
BACKLOG = 2048  # connections that wait to be accepted
CLOSING = 5  # seconds for connections to take what is left
TRIED = 10.0  # seconds that a worker has to live to be started again


class Server(uvicorn.Server):
    """A server that at SIGTERM answers what it has accepted; what takes too long gets an error."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: no new requests, some time for those at hand, then an error for the rest."""
        context = self.lifespan.state.get("context")
        if context is not None:
            context.draining = True
            for server in self.servers:
                server.close()
            log.info("draining", extra={"in_flight": context.in_flight})
            deadline = time.monotonic() + context.settings.grace
            while context.in_flight and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            await context.store.close()  # streams that still run end with an error event
        await super().shutdown(sockets)


def serve(settings: Settings, workers: int = 1, log_level: str = "info") -> None:
    """Serve until SIGTERM or Ctrl-C. Raises LabError where the port cannot be had.

    workers: processes that share the port; each holds the models, whose weights they share.
    """
    logs.to_stderr(log_level)
    with _bound(settings) as listening:
        host, port = listening.getsockname()[:2]
        log.info("listening", extra={"host": host, "port": port, "workers": workers})
        if workers == 1:
            _serve_here(settings, listening)
            return
        with tempfile.TemporaryDirectory(prefix="llmkg-metrics-") as folder:
            given = {VARIABLE: msgspec.json.encode((settings, log_level)).decode()}
            _supervise(listening, workers, {**os.environ, **given, FOLDER: folder})


def _serve_here(settings: Settings, listening: socket.socket) -> None:
    from llmkg_lab.serve.http.app import create_app  # a supervisor needs none of it
    from llmkg_lab.serve.http.protocol import BoundedProtocol

    config = uvicorn.Config(
        create_app(settings, _extensions(settings)),
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        timeout_graceful_shutdown=CLOSING,
        timeout_keep_alive=settings.upload,
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn, when all is done
        Server(config).run(sockets=[listening])


def _extensions(settings: Settings) -> "list[Extension]":
    """What is served beside OpenAI's interface, behind the same checks."""
    if not settings.knowledge:
        return []
    from llmkg_lab.serve.http.app import Extension
    from llmkg_lab.serve.mcp.desk import Desk
    from llmkg_lab.serve.mcp.server import mounted

    outputs, folder = Path(settings.outputs), Path(settings.knowledge)
    return [Extension(*mounted(Desk(outputs, folder, settings.embedder)))]


def _supervise(listening: socket.socket, count: int, environment: dict[str, str]) -> None:
    """Keep so many workers running until SIGTERM or Ctrl-C; then let them end."""
    descriptor = listening.fileno()
    command = [sys.executable, "-m", "llmkg_lab.serve.run", str(descriptor)]
    started: dict[subprocess.Popen[bytes], float] = {}

    def start() -> None:
        worker = subprocess.Popen(command, env=environment, pass_fds=(descriptor,))
        started[worker] = time.monotonic()

    with _ending() as ending:
        for _ in range(count):
            start()
        try:
            while not ending:
                time.sleep(0.1)
                for worker in [worker for worker in started if worker.poll() is not None]:
                    lived = time.monotonic() - started.pop(worker)
                    log.error("a worker died", extra={"code": worker.returncode, "after_s": lived})
                    if lived < TRIED:
                        raise LabError(
                            f"a worker ended with code {worker.returncode} as soon as it was "
                            "started", "its own messages stand above"
                        )  # fmt: skip
                    start()
        finally:
            listening.close()  # nobody waits in its queue for workers that go
            for worker in started:
                worker.terminate()
            for worker in started:
                worker.wait()


@contextlib.contextmanager
def _ending() -> Iterator[list[int]]:
    """A list to which SIGTERM and Ctrl-C are added."""
    came: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda n, _: came.append(n)) for number in signals]
    try:
        yield came
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((settings.host, settings.port))
            listening.listen(BACKLOG)
        except OSError as error:
            raise LabError(
                f"{settings.host} port {settings.port}: {error.strerror}", "choose another --port"
            ) from None
        yield listening


def main(descriptor: str) -> None:
    """Be a worker."""
    settings, level = msgspec.json.decode(os.environ[VARIABLE], type=tuple[Settings, str])
    logs.to_stderr(level)
    _serve_here(settings, socket.socket(fileno=int(descriptor)))


if __name__ == "__main__":
    main(*sys.argv[1:])
