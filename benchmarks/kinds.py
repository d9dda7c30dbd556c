"""Text of several kinds that quality is judged on: a scheme may be good on one of them alone."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from benchmarks.common import HERE
from llmkg_lab.base.errors import LabError
from llmkg_lab.data import texts
from llmkg_lab.runtime.text.tokenizer import Tokenizer

# A table of months is read on the same programs, however they change
CODE = "e8ea3d0aeddef8049fb74ba9112ea72b5a250c5c"


@dataclass(frozen=True)
class Kind:
    """Windows of text of one kind: token ids (windows, tokens) int64."""

    name: str
    sha256: str  # of the text
    windows: np.ndarray


def read(name: str, tokenizer: Tokenizer, window: int, tokens: int) -> Kind:
    """``tokens`` of a kind, or as many whole windows as there are. Raises TextError."""
    text = KINDS[name](tokenizer)
    ids = tokenizer.encode(text, special=False)
    windows = texts.windows(ids, window, min(tokens, len(ids) // window * window))
    return Kind(name, hashlib.sha256(text.encode()).hexdigest(), windows)


def _wikitext(_: Tokenizer) -> str:
    return texts.load(("wikitext2",)).evaluation


def _news(_: Tokenizer) -> str:
    return texts.load(("lee_background",)).evaluation


def _code(_: Tokenizer) -> str:
    """The project's own programs, as they were at CODE."""
    command = ["git", "archive", "--format=tar", CODE, "llmkg_lab"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, check=False)
    if done.returncode:
        raise LabError(
            f"the text of the kind code is of commit {CODE[:7]}, which is not here",
            "run in a clone with the whole history: git fetch --unshallow",
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        files = {PurePath(m.name): archive.extractfile(m) for m in archive if m.isfile()}
        programs = [files[path] for path in sorted(files) if path.suffix == ".py"]
        return "\n\n".join(file.read().decode() for file in programs if file)


def _chat(tokenizer: Tokenizer) -> str:
    """Conversations that were written for this, as the model's template writes them down."""
    roles = ("user", "assistant")
    return "".join(
        tokenizer.chat(
            [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)],
            add_generation_prompt=False,
        )
        for turns in json.loads((HERE / "chat.json").read_text(encoding="utf-8"))
    )


KINDS: dict[str, Callable[[Tokenizer], str]] = {
    "WikiText-2": _wikitext,
    "news": _news,
    "code": _code,
    "chat": _chat,
}
