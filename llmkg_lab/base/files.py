"""Files that are there whole or not at all, their SHA-256, and folders that go at once."""

import contextlib
import ctypes
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

PART = 1 << 20  # bytes that are hashed at once
LOOK = 0.002  # seconds between two looks whether a lock is free
NAME_BYTES, PATH_BYTES = 255, 1024  # that every file system takes, of a name and a path in a folder


def is_inside(name: str) -> bool:
    """Whether a path that some file names leads nowhere but into a folder that it is joined to."""
    path = PurePosixPath(name)
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in path.parts]
    fits = max(sizes, default=0) <= NAME_BYTES and sum(sizes) + len(sizes) <= PATH_BYTES
    return fits and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def is_beside(name: object) -> bool:
    """Whether what some file gives is the bare name of another in the same folder."""
    return isinstance(name, str) and is_inside(name) and PurePosixPath(name).name == name != ""


def write(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file, whole or not at all; text as UTF-8. ``durable`` is as in ``replacing``."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a name beside ``path``; the file written there takes its place when the block ends well.

    On any error, Ctrl-C included, the file beside it is removed and ``path`` is as it was.

    Args:
        durable: the content reaches the disk before the name does, so that a power cut leaves the
            old file or the new one. What is checked when it is read, or read only while its
            writer lives, need not wait for the disk.
    """
    temporary = _beside(path, f".{path.name}.")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold a lock on a file, which is made where there is none, against all other processes.

    It waits for whoever has the lock, at most ``patience`` seconds, by default for ever. The system
    drops the lock of a killed process.
    Raises TimeoutError.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if patience is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            until = time.monotonic() + patience
            while not _taken(file):
                if time.monotonic() > until:
                    raise TimeoutError(f"{path.name} is still locked after {patience:.0f} s")
                time.sleep(LOOK)
        yield


def _taken(file: IO[str]) -> bool:
    """Whether the lock on a file was free; it is then ours."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sha256(path: Path, step: Callable[[int], object] = lambda nbytes: None) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits.

    step: told of the bytes of each part that was read; what it raises ends the work.
    """
    digest, part = hashlib.sha256(), memoryview(bytearray(PART))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(part):
            digest.update(part[:size])
            step(size)
    return digest.hexdigest()


def shortage(folder: Path, nbytes: int) -> str:
    """Say in words that so many bytes do not fit the disk of a folder to be; empty if they do."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if nbytes <= free:
        return ""
    return f"takes {nbytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free at {there}"


def remove(path: Path) -> None:
    """Remove a folder or a file: from one moment to the next, for those who look for it.

    What the system does not let us remove stays, without an error.
    """
    doomed = path
    with contextlib.suppress(OSError):
        aside = _beside(path, ".removed.")
        path.rename(aside)
        doomed = aside
    if doomed.is_dir() and not doomed.is_symlink():
        shutil.rmtree(doomed, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        doomed.unlink()


def exchange(staged: Path, target: Path) -> None:
    """Put a complete folder in the place of ``target``; what lay there then lies in ``staged``.

    On Linux from one moment to the next; elsewhere ``target`` is away between two renames.
    """
    if not target.exists():
        staged.rename(target)
    elif not _exchanged(staged, target):
        aside = _beside(target, f".{target.name}.")
        target.rename(aside)
        try:
            staged.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        aside.rename(staged)


def link_tree(source: Path, target: Path) -> None:
    """Make ``target`` a folder of the same files, as links to them: no byte is copied.

    Where the file system has no links they are copied.
    """

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Whether the system swapped two names in one step (renameat2 of Linux)."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange_both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(swap(here, os.fsencode(a), here, os.fsencode(b), exchange_both) == 0)


def _beside(path: Path, prefix: str) -> Path:
    """A name in the same folder that nobody else takes, hidden from plain listings."""
    return path.with_name(f"{prefix}{os.urandom(6).hex()}")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
