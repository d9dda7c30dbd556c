"""What took long to compute, kept on disk under a hash of all that went into it.

Arrays by ``arrays``; other modules keep folders of their own beside them. All of it can be
computed again, so ``clear`` may take any of it at any time.
"""

import contextlib
import hashlib
import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmkg_lab.base import files, paths

Arrays = dict[str, npt.NDArray[Any]]
Key = Mapping[str, Any]  # what becomes JSON
KINDS = {  # folder: what it spares
    "artifacts": "downloading artifacts from the Hub",
    "calibrated": "solving each layer of a calibrated scheme",
    "distilled": "training scales",
    "explored": "the explorer's measurements",
    "own-text": "writing what a model is calibrated on",
    "packed": "packing weights for this processor when a model is loaded",
    "reference": "running the original in PyTorch",
    "speeds": "timing schemes on this processor (device --measure)",
    "sensitivities": "pricing each matrix for a byte budget",
    "synthetic": "drawing synthetic checkpoints",
    "token-scores": "scoring the explorer's texts",
    "tokenizers": "reading tokenizers as transformers does, and trying them",
}
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def arrays(kind: str, key: Key, compute: Callable[[], Arrays]) -> Arrays:
    """What ``compute`` returns for ``key``, from disk where an earlier call stored it.

    kind: the folder within the cache.
    key: everything that the result depends on, as JSON (versions of libraries among it).
    A file that is damaged is computed again. Where the disk takes no file, a warning says so.
    """
    if (known := stored(kind, key)) is not None:
        return known
    result, path = compute(), _path(kind, key)
    try:
        _write(path, result)
    except OSError as error:
        warnings.warn(f"{path.parent} takes no cache file: {error.strerror}", stacklevel=2)
    return result


def stored(kind: str, key: Key) -> Arrays | None:
    """What an earlier call of ``arrays`` left for ``key``, None where there is nothing whole."""
    with contextlib.suppress(*UNREADABLE):
        return _read(_path(kind, key))
    return None


@dataclass(frozen=True)
class Kept:
    """One folder of the cache. used: seconds since the epoch when a file of it last changed."""

    kind: str
    spares: str
    entries: int
    nbytes: int
    used: float


def kept() -> list[Kept]:
    """What the cache holds, the largest first."""
    root = paths.cache()
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(map(_kept, folders), key=lambda found: (-found.nbytes, found.kind))


def clear(kinds: Iterable[str]) -> int:
    """Remove folders of the cache. Returns how many bytes were freed.

    A process that has mapped a file keeps it; one that is about to store something starts anew.
    """
    freed = 0
    for found in [found for found in kept() if found.kind in set(kinds)]:
        files.remove(paths.cache() / found.kind)
        freed += found.nbytes
    return freed


def _kept(folder: Path) -> Kept:
    stats = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            stats += [path.stat()] if path.is_file() else []
    nbytes = sum(stat.st_size for stat in stats)
    used = max((stat.st_mtime for stat in stats), default=folder.stat().st_mtime)
    spares = KINDS.get(folder.name, "what a benchmark measured")
    return Kept(folder.name, spares, len(list(folder.iterdir())), nbytes, used)


def _path(kind: str, key: Key) -> Path:
    content = json.dumps(key, sort_keys=True).encode()
    return paths.cache() / kind / f"{hashlib.sha256(content).hexdigest()}.npz"


def _read(path: Path) -> Arrays:
    # opened here: of a damaged archive, NumPy would leave the file open
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}  # the zip's CRCs are checked on the way


def _write(path: Path, content: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.replacing(path, durable=False) as temporary,  # its checksums tell a torn file
        temporary.open("wb") as file,
    ):
        np.savez(file, **dict[str, Any](content))
