"""Sessions of ONNX Runtime, and KV caches bound to one by pointer."""

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.machine import default_threads
from llmkg_lab.runtime import BackendError, InferenceError

CPU = "CPUExecutionProvider"
KEEP = "num_logits_to_keep"  # an optional input of a decoder's graph: 1 for the last logits alone


def open_session(
    model: Path,
    threads: int | None = None,
    provider: str = CPU,
    profile: Path | None = None,
    optimized: bool = False,
    shares_arena: bool = False,
) -> onnxruntime.InferenceSession:
    """A session over an .onnx file; ``threads`` is by default the physical cores.

    provider: an execution provider of this ONNX Runtime, by name; the CPU takes what it cannot.
    profile: how the name of a file with the times of all operators is to begin;
        ``end_profiling`` writes it and returns its whole name.
    optimized: the file is what a session's optimizations made of a graph.
    shares_arena: values in between the operators lie in an arena that all such sessions share.
        It keeps what it once took, even when they are closed: for runs of bounded size.
    Raises InferenceError where ONNX Runtime refuses the file or has no such provider.
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise InferenceError(f"ONNX Runtime here has no {provider}", f"it has {available}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.log_severity_level = 3  # errors only
    # Memory patterns are planned and kept for each new input shape, and the attention mask
    # has a new shape at every token.
    options.enable_mem_pattern = False
    if optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if shares_arena:
        _register_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=list(dict.fromkeys((provider, CPU)))
        )
        for value in (*session.get_inputs(), *session.get_outputs()):
            _ = value.name, value.shape  # names that are not UTF-8 would fail later
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise InferenceError(
            f"ONNX Runtime cannot load {model}: {error}", "check it with `llmkg-lab verify`"
        ) from error
    return session


@cache
def _register_arena() -> None:
    """Once a process: ONNX Runtime takes no second one."""
    kind, memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    info = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, memory)
    onnxruntime.create_and_register_allocator(info, None)


@contextmanager
def running() -> Iterator[None]:
    """Raise BackendError where ONNX Runtime fails as it runs a graph: one may load and not run."""
    try:
        yield
    except Exception as error:  # its errors share no base class; some are plain RuntimeErrors
        own = type(error).__module__.startswith("onnxruntime.") or type(error) is RuntimeError
        if not own:
            raise
        raise BackendError(
            f"ONNX Runtime fails on the graph: {error}", "check it with `llmkg-lab verify`"
        ) from error


def output_size(session: onnxruntime.InferenceSession, name: str) -> int | None:
    """The last dimension of an output, None where the graph has no such output."""
    return next((out.shape[-1] for out in session.get_outputs() if out.name == name), None)


class CachedSession:
    """A decoder's session over the KV caches of some sequences, one a row.

    All memory of the decode loop is allocated here and bound by pointer: a buffer a layer and
    part, (rows, kv_heads, max_length, head_dim), is past and present at once, and
    GroupQueryAttention appends to it in place. A token copies and allocates nothing.

    session: of ``artifact``.
    rows: sequences that there is room for.
    chunk: tokens of one sequence that a run may take.
    max_length: tokens that fit a row, by default the model's context length. The memory is
        taken as it fills.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        artifact: Artifact,
        rows: int,
        chunk: int,
        max_length: int | None = None,
    ) -> None:
        context = artifact.context_length
        if max_length is not None and not 1 <= max_length <= context:
            raise InferenceError(
                f"max_length is {max_length}, but the model has {context} positions",
                f"choose 1 to {context}",
            )
        self.session = session
        self.max_length = max_length or context
        self.chunk = min(chunk, self.max_length)
        self.past = {  # name -> (batch, kv_heads, past length, head_dim), symbolic ones as str
            i.name: i.shape
            for i in self.session.get_inputs()
            if i.name.startswith("past_key_values.")
        }
        if not self.past:
            raise InferenceError(
                f"{artifact.folder} is a {artifact.task} model: it generates no text",
                "open it with Embedder, or give a text-generation artifact",
            )
        vocab = output_size(self.session, "logits")
        assert vocab is not None  # a graph with a cache has logits
        self.vocab = vocab
        optional = [i.name for i in self.session.get_overridable_initializers()]
        self._keeps_one = KEEP in optional  # graphs of other makers may know no such input
        self._allocate(rows)

    def run(self, row: int, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Append tokens to the sequences in ``row`` and the rows after it.

        ids: (batch, count) int64; either is 1.
        lengths: (batch,) int64, the tokens that the rows hold already.
        Returns the logits after each sequence's last token, (batch, vocab) float32: a view that
        the next run overwrites.
        """
        batch, count = ids.shape
        self._bind_buffers(row, batch, count)
        self._ids[: batch * count] = ids.reshape(-1)
        self._bind_mask(lengths + count)
        with running():
            self.session.run_with_iobinding(self._binding)
        kept = 1 if self._keeps_one else count
        logits = self._logits[: batch * kept * self.vocab]
        return logits.reshape(batch, kept, self.vocab)[:, -1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows when they are full."""
        return sum(buffer.nbytes for buffer in self._caches.values())

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one row over another."""
        for buffer in self._caches.values():
            buffer[target, :, :length] = buffer[source, :, :length]

    def _allocate(self, rows: int) -> None:
        self._binding = self.session.io_binding()
        self._bound = (-1, -1, -1)  # row, batch and count of the last run
        self._ids = np.zeros(max(self.chunk, rows), np.int64)
        self._mask = np.ones(rows * self.max_length, np.int64)
        kept = rows if self._keeps_one else len(self._ids)
        self._logits = np.empty(kept * self.vocab, np.float32)
        self._caches = {
            name: _reserve((rows, heads, self.max_length, head_dim))
            for name, (_, heads, _, head_dim) in self.past.items()
        }
        if self._keeps_one:
            self._one = np.array(1)
            self._bind_input(KEEP, self._one, ())

    def _bind_buffers(self, row: int, batch: int, count: int) -> None:
        """Bind all but the mask: from one token to the next, none of it changes."""
        if self._bound == (row, batch, count):
            return
        if self._bound[:2] != (row, batch):
            for name, buffer in self._caches.items():
                rows = buffer[row : row + batch]
                self._bind_input(name, rows, rows.shape)
                self._bind_output(name.replace("past_key_values", "present"), rows, rows.shape)
        self._bind_input("input_ids", self._ids, (batch, count))
        kept = 1 if self._keeps_one else count
        self._bind_output("logits", self._logits, (batch, kept, self.vocab))
        self._bound = (row, batch, count)

    def _bind_mask(self, lengths: np.ndarray) -> None:
        """lengths: (batch,), with the tokens at hand. A row's ones count its tokens."""
        batch, total = len(lengths), int(lengths.max())
        if batch > 1:
            mask = self._mask[: batch * total].reshape(batch, total)
            np.less(np.arange(total), lengths[:, None], out=mask, casting="unsafe")
        else:  # a batch's masks may have left zeros
            self._mask[:total] = 1
        self._bind_input("attention_mask", self._mask, (batch, total))

    def _bind_input(self, name: str, array: np.ndarray, shape: Sequence[int]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype, shape, array.ctypes.data)

    def _bind_output(self, name: str, array: np.ndarray, shape: Sequence[int]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype, shape, array.ctypes.data)


def _reserve(shape: Sequence[int]) -> np.ndarray:
    """A float32 array of zeros, whose pages are taken from the system when they are written.

    Not by numpy, which asks for huge pages: each head's first token would take 2 MB.
    """
    memory = mmap.mmap(-1, int(np.prod(shape)) * 4)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)
