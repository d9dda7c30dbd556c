"""Which runtime answers: the one asked for where it is able, another where it fails, and why."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmkg_lab.artifact import MANIFEST, Artifact
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.runtime import BackendError, InferenceError
from llmkg_lab.runtime.abilities import RUNTIMES, no_candle
from llmkg_lab.runtime.backend import (
    CachedBackend,
    CandleBackend,
    Metadata,
    OrtBackend,
)
from llmkg_lab.runtime.text.sampling import Sampler

log = logging.getLogger(__name__)

HINT = "convert makes ONNX artifacts, export GGUF; pip install 'llmkg-lab[candle]' for Candle"


@dataclass(frozen=True)
class Candidate:
    """A folder that one runtime can open."""

    runtime: str
    folder: Path
    fingerprint: str  # of the checkpoint: the same model, whatever the format
    nbytes: int


def open_backend(
    folder: str | Path,
    prefer: str | None = None,
    *,
    threads: int | None = None,
    memory: int | None = None,
    reuse_prompts: bool = False,
) -> "FallbackBackend":
    """Open a model on the runtime that is preferred; the other stands by, where it can run it.

    folder: an artifact, a BERT's folder of safetensors, or a folder that holds such folders. In
        it and beside it are looked for what other runtimes can open of the same checkpoint.
    prefer: onnxruntime or candle; by default ONNX Runtime where there is an ONNX artifact.
    memory: bytes that this process may have resident, which only ONNX Runtime can hold to.
    reuse_prompts: read of a prompt only what the last one did not begin with (``ort.Decoder``).
    Which runtime runs and why is logged, and logged as a warning where it is not the one asked
    for. A backend that does not load, or that dies, is replaced once, by the next candidate.
    Raises InferenceError where no runtime can open the folder.
    """
    if prefer not in (None, *RUNTIMES):
        raise InferenceError(f"there is no runtime {prefer!r}", f"there are {', '.join(RUNTIMES)}")
    if not Path(folder).is_dir():
        raise InferenceError(f"{folder} is not a folder", HINT)
    found, reasons = find(Path(folder))
    wanted = prefer or RUNTIMES[0]
    if memory:
        found = [candidate for candidate in found if candidate.runtime == OrtBackend.name]
        reasons.append("within a memory limit only ONNX artifacts run")
    firsts = {candidate.runtime: candidate for candidate in reversed(found)}  # one a runtime
    ordered = sorted(firsts.values(), key=lambda candidate: candidate.runtime != wanted)
    if not ordered:
        said = "; ".join(reasons) or "it holds no artifact"
        raise InferenceError(f"no runtime opens {folder}: {said}", HINT)
    if prefer and ordered[0].runtime != prefer:
        why = reasons or [f"{folder} holds nothing that it opens"]
        log.warning("%s instead of %s: %s", ordered[0].runtime, prefer, "; ".join(why))

    def opener(candidate: Candidate) -> Callable[[], CachedBackend]:
        if candidate.runtime == CandleBackend.name:
            return lambda: CandleBackend(candidate.folder, threads)
        return lambda: OrtBackend(
            Artifact.open(candidate.folder), threads, memory, reuse_prompts=reuse_prompts
        )

    return FallbackBackend([(c.runtime, str(c.folder), opener(c)) for c in ordered])


class FallbackBackend(CachedBackend):
    """A backend with another one standing by: where the first fails, the second goes on.

    openers: runtime, folder and how to open it, the preferred first; the first two count.
    A generation goes on after its last token, with the same state of the sampler; the text before
    is read again by the second runtime. What the request is to blame for changes nothing.
    """

    def __init__(self, openers: Sequence[tuple[str, str, Callable[[], CachedBackend]]]) -> None:
        self._openers = list(openers[:2])
        self.active = self._open()
        self.folder, self.task = self.active.folder, self.active.task
        super().__init__()

    def decoder(self) -> "FallbackDecoder":
        self.active.decoder()  # raises where nothing generates
        return FallbackDecoder(self)

    def compute_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        try:
            return self.active.compute_embeddings(texts)
        except Exception as error:
            self.fall_back(error)
            return self.active.compute_embeddings(texts)

    def compute_scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        try:
            return self.active.compute_scores(pairs)
        except Exception as error:
            self.fall_back(error)
            return self.active.compute_scores(pairs)

    def embed_ids(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        return self.active.embed_ids(texts)

    def fall_back(self, error: Exception) -> None:
        """Put the other backend in the place of the one that failed.

        Raises ``error`` where the request is to blame for it or there is no other.
        """
        if not _is_failure(error) or not self._openers:
            raise error
        self.active.close()
        self.vectors.clear()  # another runtime's vectors differ a little
        self.active = self._open(after=error)

    def _open(self, after: Exception | None = None) -> CachedBackend:
        runtime, folder, open_it = self._openers.pop(0)
        if after is not None:
            log.warning("%s goes on, with %s: %s", runtime, folder, _first_line(after))
        try:
            backend = open_it()
        except Exception as error:
            if not self._openers:
                raise
            return self._open(after=error)
        log.info("%s runs %s", runtime, folder)
        return backend

    def is_ready(self) -> bool:
        return self.active.is_ready() or bool(self._openers)

    def memory(self) -> int:
        return self.active.memory()

    def metadata(self) -> Metadata:
        return self.active.metadata()

    def close(self) -> None:
        self.active.close()


class FallbackDecoder:
    """The decoder of a FallbackBackend: ``generate`` alone, which survives a change of runtime."""

    def __init__(self, backend: FallbackBackend) -> None:
        self._backend = backend
        self.artifact = backend.active.decoder().artifact

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampler: Sampler | None = None,
        stop_ids: Collection[int] = (),
    ) -> Iterator[int]:
        """Generate as ``ort.Decoder.generate`` does, on whichever runtime goes on."""
        rest = max_tokens, sampler or Sampler(), stop_ids
        return self._stream(self._start(list(prompt_ids), *rest), list(prompt_ids), *rest)

    def _start(self, ids: list[int], *rest: Any) -> Iterator[int]:
        try:
            return self._backend.active.decoder().generate(ids, *rest)
        except Exception as error:
            self._backend.fall_back(error)
            return self._backend.active.decoder().generate(ids, *rest)

    def _stream(
        self, tokens: Iterator[int], history: list[int], max_tokens: int, *rest: Any
    ) -> Iterator[int]:
        end = len(history) + max_tokens
        while True:
            try:
                for token in tokens:
                    history.append(token)
                    yield token
                return
            except Exception as error:
                self._backend.fall_back(error)
            if len(history) == end:
                return
            # a sampler draws after the logits have come, so it is where the last token left it
            tokens = self._start(history, end - len(history), *rest)


def find(folder: Path) -> tuple[list[Candidate], list[str]]:
    """What can be opened in or beside a folder, the smaller first, and why something cannot.

    Of one runtime there may be several; all are of the folder's own checkpoint.
    """
    named = _candidate(folder)  # what is wrong with it is raised
    inside = sorted(path for path in folder.glob("*/") if not path.name.startswith("."))
    beside = sorted(folder.resolve().parent.glob("*/")) if isinstance(named, Candidate) else []
    others = {
        path.resolve(): path for path in (*beside, *inside) if path.resolve() != folder.resolve()
    }
    found, reasons = [], [named] if isinstance(named, str) and named else []
    for path in others.values():
        try:
            candidate = _candidate(path)
        except (LabError, OSError, ValueError, KeyError) as error:
            candidate = f"{path}: {_first_line(error)}"
        if isinstance(candidate, Candidate):
            found.append(candidate)
        elif candidate:
            reasons.append(candidate)
    found.sort(key=lambda candidate: (candidate.nbytes, str(candidate.folder)))
    if isinstance(named, Candidate):
        same = [candidate for candidate in found if candidate.fingerprint == named.fingerprint]
        return [named, *same], reasons
    if len({candidate.fingerprint for candidate in found}) > 1:
        raise InferenceError(
            f"{folder} holds several models",
            f"name one of {', '.join(candidate.folder.name for candidate in found)}",
        )
    return found, reasons


def _candidate(folder: Path) -> Candidate | str:
    """What a folder is to a runtime, or why it is nothing; "" where it never meant to be."""
    if (folder / MANIFEST).exists():
        artifact = Artifact.open(folder)
        runtime = OrtBackend.name
        if artifact.model_path.suffix == ".gguf":
            runtime = CandleBackend.name
            if reason := no_candle(artifact.manifest.architecture, "gguf"):
                return f"{folder}: {reason}"
        fingerprint = artifact.manifest.source.fingerprint
        return Candidate(runtime, folder, fingerprint, artifact.nbytes)
    if not list(folder.glob("*.safetensors")) or not (folder / "config.json").exists():
        return ""
    checkpoint = open_checkpoint(folder)
    if reason := no_candle(checkpoint.config.get("model_type"), "safetensors"):
        return f"{folder}: {reason}"
    nbytes = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    return Candidate(CandleBackend.name, folder, checkpoint.fingerprint(), nbytes)


def _is_failure(error: Exception) -> bool:
    """Whether the runtime failed. What else our own errors say, another one would say again."""
    return isinstance(error, BackendError) or not isinstance(error, LabError)


def _first_line(error: Exception) -> str:
    return (getattr(error, "message", None) or str(error) or type(error).__name__).splitlines()[0]
