"""The child's side of ``bounded.Bounded``: bounded_child.py PROGRAM, run as a program.

On standard input: for each request a line of JSON (size, seconds, memory), then its bytes. On
standard output alike for each answer (size; failed: the bytes are a message; spent: the process is
not fit for another request).
"""

import contextlib
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO

try:
    import resource
except ImportError:  # Windows: there the parent's watch alone ends what takes too long
    resource = None  # type: ignore[assignment]


def serve(answer: Callable[[bytes], bytes], requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more, or until one broke something."""
    spent = False
    while not spent and (line := requests.readline()):
        header = json.loads(line)
        request = requests.read(header["size"])
        _bound(header["seconds"], header["memory"])
        try:
            content, failed = answer(request), False
        except MemoryError:
            content, failed, spent = b"it takes too much memory", True, True
        except Exception as error:
            content, failed = (str(error) or type(error).__name__).encode(errors="replace"), True
        except BaseException as error:  # a panic of Rust's is no Exception
            content, failed, spent = str(error).encode(errors="replace"), True, True
        if resource is not None:
            signal.setitimer(signal.ITIMER_PROF, 0)
        said = {"size": len(content), "failed": failed, "spent": spent}
        answers.write(json.dumps(said).encode() + b"\n" + content)
        answers.flush()


def _bound(seconds: int, memory: int) -> None:
    """Have the system end this process after so much computing, and refuse it more memory."""
    if resource is None:  # Windows has none
        return  # type: ignore[unreachable]
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal, SIGPROF, ends a process
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    allowed = memory if most == resource.RLIM_INFINITY else min(memory, most)
    with contextlib.suppress(OSError, ValueError):  # macOS bounds no address space
        resource.setrlimit(resource.RLIMIT_AS, (allowed, most))


def main() -> None:
    """Serve on this process's own input and output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    serve(runpy.run_path(sys.argv[1])["answer"], sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
