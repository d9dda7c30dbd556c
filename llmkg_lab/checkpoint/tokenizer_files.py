"""A folder's tokenizer: read as transformers reads it, and tried before anything uses it.

Both happen in processes of their own, because a tokenizer may come from anybody. What was found is
kept in the cache, so that only the first use of a tokenizer waits for it.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from llmkg_lab.base import cache
from llmkg_lab.base.bounded import Bounded, BoundsError
from llmkg_lab.checkpoint.base import CheckpointError

HERE = Path(__file__).parent
FILES = (  # what AutoTokenizer reads
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json",
                "sentencepiece.bpe.model")  # fmt: skip
KIND = "tokenizers"  # of what the cache keeps

_trial = Bounded(HERE / "tokenizer_trial.py")
_reading = Bounded(HERE / "tokenizer_reading.py")


def tried(content: bytes) -> bytes:
    """Return a tokenizer.json that loads and works within bounds.

    Raises:
        ValueError: It does not; the text says why.
    """

    def try_it() -> cache.Arrays:
        _ask(_trial, content, memory=(192 << 20) + 24 * len(content), size=len(content))
        return {}

    key = {"sha256": hashlib.sha256(content).hexdigest(), "tokenizers": version("tokenizers")}
    cache.arrays(KIND, {**key, "trial": 1}, try_it)
    return content


def read_folder(folder: Path) -> dict[str, Any] | None:
    """Read the tokenizer of a folder as AutoTokenizer does; None where there is none.

    Returns what ``tokenizer_reading.answer`` does, with ``tokenizer`` as bytes.

    Raises:
        CheckpointError: It is damaged, of a kind that cannot be read, or breaks the bounds.
    """
    if not any((folder / name).exists() for name in VOCABULARIES):
        return None
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    stated = files.get("tokenizer.json")
    try:
        if stated is not None:
            tried(stated)  # before transformers loads it
    except ValueError as error:
        path = folder / "tokenizer.json"
        raise CheckpointError(f"{path} is not a tokenizer: {error}", "fetch it again") from error
    try:
        reading = _read(folder, files)
        content = stated if reading["tokenizer"] is None else reading["tokenizer"].encode()
        assert content is not None  # one of the two said it
        return {**reading, "tokenizer": tried(content)}
    except ValueError as error:
        raise CheckpointError(
            f"{folder}: transformers cannot read its tokenizer: {error}",
            "open it in transformers and save it: that writes tokenizer.json",
        ) from error


def _read(folder: Path, files: dict[str, bytes]) -> dict[str, Any]:
    size = sum(map(len, files.values()))

    def read() -> cache.Arrays:
        path = str(folder.resolve()).encode()
        content = _ask(_reading, path, memory=(480 << 20) + 60 * size, size=size)
        return {"reading": np.frombuffer(content, np.uint8)}

    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    versions = {name: version(name) for name in ("tokenizers", "transformers")}
    stored = cache.arrays(KIND, {"files": hashes, "versions": versions}, read)
    reading: dict[str, Any] = json.loads(stored["reading"].tobytes())
    return reading


def _ask(program: Bounded, request: bytes, *, memory: int, size: int) -> bytes:
    """The answer of a program. Raises ValueError where there is none. size: of what it reads."""
    try:
        return program.ask(request, seconds=4 + (size >> 21), memory=memory)
    except BoundsError as error:
        raise ValueError(str(error)) from error
