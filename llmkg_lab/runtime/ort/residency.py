"""What of a process is in memory, and the means to decide it. Linux only.

The mapped weights of a session are pages of a file. The system drops them when they are given back
(madvise) and reads them again at the next touch; while they are away they are also made
inaccessible (mprotect), so that the kernel does not count them as data of the process, and a limit
on that data (RLIMIT_DATA) bounds what is in memory at once.
"""

import contextlib
import ctypes
import mmap
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from llmkg_lab.runtime import InferenceError

NONE, READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
MMAP_THRESHOLD, LARGE = -3, 1 << 20  # mallopt: blocks from 1 MB on are given back when freed
STACK = 1 << 20  # bytes of a thread's stack; 8 MB each, of dozens of idle threads, add up
LIBRARIES = 16 << 20  # bytes of code that is yet to be touched


class MappedWeights:
    """The pages of one file that this process has mapped: all in, or all out."""

    def __init__(self, path: Path) -> None:
        name = str(path.resolve())
        self._spans = [(start, size) for start, size, file in _mappings() if file == name]
        self.nbytes = sum(size for _, size in self._spans)

    def admit(self) -> None:
        """Allow access; pages come in as they are touched. Raises InferenceError at the limit."""
        self._each("mprotect", READ_WRITE)

    def evict(self) -> None:
        """Give the pages back. Nothing may read them until they are admitted again."""
        self._each("madvise", mmap.MADV_DONTNEED)
        self._each("mprotect", NONE)

    def read_ahead(self) -> None:
        """Have the system read what of them is not in its own cache, without waiting."""
        self._each("madvise", mmap.MADV_WILLNEED)

    def _each(self, call: str, argument: int) -> None:
        for start, size in self._spans:
            if _libc(call)(ctypes.c_void_p(start), ctypes.c_size_t(size), argument):
                problem = os.strerror(ctypes.get_errno())
                raise InferenceError(
                    f"{self.nbytes / 1e6:.0f} MB of weights: {problem}", "allow more memory"
                )


def resident() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS")


def data_room() -> float:
    """Bytes of private, writable memory that the process may still take, infinite without limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return float("inf") if limit == resource.RLIM_INFINITY else limit - _status("VmData")


def limit_data(memory: int) -> None:
    """Let the kernel hold this process to ``memory`` bytes; what goes beyond fails.

    The limit counts all private, writable memory (RLIMIT_DATA); what it does not count, code and
    data of libraries, is taken off it.
    """
    soft = memory - _status("RssFile") - LIBRARIES
    resource.setrlimit(resource.RLIMIT_DATA, (soft, resource.getrlimit(resource.RLIMIT_DATA)[1]))


@contextlib.contextmanager
def thrifty() -> Iterator[None]:
    """Threads made in the block take small stacks; from now on, freed blocks go to the system.

    Raises InferenceError on other systems than Linux.
    """
    if not sys.platform.startswith("linux"):
        raise InferenceError(
            "the low-memory mode needs Linux", "leave the memory limit out, or use a container"
        )
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        yield  # another C library than glibc, with habits of its own
        return
    _libc("mallopt")(MMAP_THRESHOLD, LARGE)
    attributes, before = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _libc("pthread_getattr_default_np")(attributes)
    _libc("pthread_attr_getstacksize")(attributes, ctypes.byref(before))
    try:
        _set_stack(attributes, STACK)
        yield
    finally:
        _set_stack(attributes, before.value)


def _set_stack(attributes: ctypes.Array, nbytes: int) -> None:
    _libc("pthread_attr_setstacksize")(attributes, ctypes.c_size_t(nbytes))
    _libc("pthread_setattr_default_np")(attributes)


def _libc(name: str) -> Callable[..., int]:
    function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    return function


def _status(field: str) -> int:
    """A count of bytes that the system keeps of this process, 0 where it does not."""
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _mappings() -> list[tuple[int, int, str]]:
    """(start, bytes, file) of everything mapped."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, file = line.split(None, 5)
        start, end = (int(bound, 16) for bound in span.split("-"))
        found.append((start, end - start, file))
    return found
