"""Arrays that took long to compute, kept on disk under a hash of all that went into them."""

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from llmkg_lab import paths

Arrays = dict[str, np.ndarray]
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def arrays(kind: str, key: Mapping, compute: Callable[[], Arrays]) -> Arrays:
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


def stored(kind: str, key: Mapping) -> Arrays | None:
    """What an earlier call of ``arrays`` left for ``key``, None where there is nothing whole."""
    with contextlib.suppress(*UNREADABLE):
        return _read(_path(kind, key))
    return None


def _path(kind: str, key: Mapping) -> Path:
    content = json.dumps(key, sort_keys=True).encode()
    return paths.cache() / kind / f"{hashlib.sha256(content).hexdigest()}.npz"


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:  # the zip's CRCs are checked on the way
        return {name: file[name] for name in file.files}


def _write(path: Path, content: Arrays) -> None:
    """Whole or not at all: a killed run, or one beside it, leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
