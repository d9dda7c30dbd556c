"""Work on what a stranger wrote, in a process of its own, within bounds on time and memory.

Some libraries end the process or take all of its memory when a file is made to that end, and no
``except`` helps. So such work is done by a program of a single file, in a child process whose
limits the system holds. It is asked by ``Bounded.ask``; ``bounded_child`` is the other side.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, cast

CHILD = Path(__file__).with_name("bounded_child.py")
PATIENCE = 8  # seconds of waiting for each of computing: other programs may take the cores
GRACE = 5.0  # seconds for a process to end that answers no more, and to say by its code why
ENVIRONMENT = {  # threads would each take address space, which is bounded
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class BoundsError(Exception):
    """The program refused a request, broke its bounds, or ended over it; the text says which."""


class Bounded:
    """A program that answers requests, in a process that starts when it is needed.

    Args:
        program: A file of Python that defines ``answer(request: bytes) -> bytes``. It is run
            alone, and so imports nothing of this package.
        idle: Seconds without a request after which its process ends.
    """

    def __init__(self, program: Path, idle: float = 10.0) -> None:
        self._program = program
        self._idle = idle
        self._lock = threading.Lock()  # an answer belongs to the request before it
        self._process: subprocess.Popen[bytes] | None = None
        self._sleep = threading.Timer(0, self.close)
        atexit.register(self.close)

    def ask(self, request: bytes, *, seconds: int, memory: int) -> bytes:
        """Return the program's answer.

        Args:
            seconds: Of computing, which the system counts (on Windows: of waiting).
            memory: Bytes of address space; Linux alone holds a process to them.

        Raises:
            BoundsError: There is no answer; the next request meets a new process.
        """
        with self._lock:
            self._sleep.cancel()
            process = self._started()
            watch = threading.Timer(seconds * PATIENCE, process.kill)
            watch.start()
            try:
                header, content = _exchange(process, request, seconds, memory)
            except BaseException:
                self._end()  # after Ctrl-C too: its answer would meet the next request
                raise
            finally:
                watch.cancel()
            if header is None:
                raise BoundsError(_death(self._end(GRACE), seconds))
            if header["spent"]:
                self._end()
            self._sleep = threading.Timer(self._idle, self.close)
            self._sleep.daemon = True
            self._sleep.start()
        if header["failed"]:
            raise BoundsError(content.decode(errors="replace"))
        return content

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(CHILD), str(self._program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # a panic is told there, and we tell what it means
                env={**os.environ, **ENVIRONMENT},
            )
        return self._process

    def _end(self, grace: float = 0.5) -> int:
        """End the process, by force after ``grace`` seconds; its exit code, 0 of none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(OSError):
            cast(IO[bytes], process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)  # at the end of its input it ends by itself
        process.kill()
        cast(IO[bytes], process.stdout).close()
        return process.wait()


def _exchange(
    process: subprocess.Popen[bytes], request: bytes, seconds: int, memory: int
) -> tuple[dict[str, Any] | None, bytes]:
    """The answer with what it says of itself, None where the process ended before it."""
    requests, answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    header = {"size": len(request), "seconds": seconds, "memory": memory}
    try:
        requests.write(json.dumps(header).encode() + b"\n" + request)
        requests.flush()
    except OSError:  # it ended before it had read everything
        return None, b""
    line = answers.readline()
    if not line.endswith(b"\n"):
        return None, b""
    said = json.loads(line)
    content = answers.read(said["size"])
    return (said, content) if len(content) == said["size"] else (None, b"")


def _death(code: int, seconds: int) -> str:
    signal = -code
    if signal in (9, 27):  # SIGKILL by our watch, SIGPROF by the system
        return f"it takes more than {seconds} seconds"
    if signal == 6:  # SIGABRT: how Rust's allocator ends
        return "it takes too much memory"
    return f"the process that read it ended with code {code}"
