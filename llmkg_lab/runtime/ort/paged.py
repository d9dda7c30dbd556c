"""A decoder whose layers take turns in memory: larger models than there is memory for.

The graph is cut at its layers (segments.py), each of which is a session over packed weights that
are mapped, not copied (packed.py). Of them only so many are in memory as the bound allows: the
first ones stay, and the others come when their turn is and go at once (residency.py). Least
recently used would keep the wrong ones: layers run in a circle, so what was used last is what is
needed last.
"""

import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.machine import default_threads
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.decoder import PREFILL_CHUNK
from llmkg_lab.runtime.ort.packed import PackedSegment, load_error, packed, thrifty_options
from llmkg_lab.runtime.ort.residency import MappedWeights, data_room, resident, thrifty
from llmkg_lab.runtime.ort.session import CPU, running
from llmkg_lab.runtime.sequence import SequenceDecoder, TokenIds, check_tokens

WORK = 64 << 20  # bytes for the values of a chunk of tokens and what else comes and goes
CACHE_SHARE = 0.2  # of the memory, for keys and values, where the length is not asked for

Values = dict[str, onnxruntime.OrtValue]


@dataclass
class Page:
    """A segment that can be in memory or not. ``later``: values that the pages after it read."""

    session: onnxruntime.InferenceSession
    weights: MappedWeights
    stays: bool = False
    later: set[str] = field(default_factory=set)

    @property
    def inputs(self) -> list[str]:
        return [value.name for value in self.session.get_inputs()]


class PagedDecoder(SequenceDecoder):
    """A causal language model within ``memory`` bytes resident, with ``ort.Decoder``'s interface.

    The bound is kept by what is loaded when, of this whole process; ``residency.limit_data``
    has the kernel enforce it. The first use of an artifact packs its weights into the cache.

    memory: bytes that this process may have resident.
    max_length: tokens that fit the cache of keys and values, which counts within the memory; by
        default what a fifth of it holds, at most the model's context length.
    Raises InferenceError where the memory does not suffice, and says how much would.
    """

    length = 0  # tokens in the cache

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None = None,
        max_length: int | None = None,
        *,
        memory: int,
    ) -> None:
        self.artifact, self.memory = artifact, memory
        with thrifty():
            self._pages = _open_all(artifact, threads or default_threads())
        for page, after in zip(self._pages[-2::-1], self._pages[:0:-1], strict=True):
            page.later = after.later.union(after.inputs)
        logits = next(o for o in self._pages[-1].session.get_outputs() if o.name == "logits")
        self.vocab = logits.shape[-1]
        self._allocate(max_length)
        self._choose_what_stays()

    @property
    def bytes_staying(self) -> tuple[int, int]:
        """Bytes of weights that stay in memory, and of all."""
        sizes = [(page.weights.nbytes, page.stays) for page in self._pages]
        return sum(size for size, stays in sizes if stays), sum(size for size, _ in sizes)

    def reset(self) -> None:
        """Forget the sequence; the buffers stay."""
        self.length = 0

    def prefill(self, ids: TokenIds) -> np.ndarray:
        """Append several tokens; return the logits after the last, (vocab,) float32.

        Each layer is loaded once, however many tokens there are. Raises InferenceError on no
        tokens, a token outside the vocabulary, or more tokens than the cache has room for.
        """
        checked = np.asarray(ids, np.int64)
        check_tokens(checked, self.vocab, self.length + len(checked), self.max_length)
        chunks = self._chunks(checked)
        for page, following in zip(self._pages, [*self._pages[1:], self._pages[0]], strict=True):
            following.weights.read_ahead()
            page.weights.admit()
            try:
                if page is self._pages[-1]:
                    chunks = [_last_token(chunks[-1])]
                chunks = [self._run(page, values) for values in chunks]
            finally:
                if not page.stays:
                    page.weights.evict()
        self.length += len(checked)  # only now: an interrupted run leaves the cache as it was
        return chunks[0]["logits"].numpy()[0, 0]

    def _allocate(self, max_length: int | None) -> None:
        """Buffers that are past and present at once, (1, kv_heads, max_length, head_dim) each."""
        inputs = [value for page in self._pages for value in page.session.get_inputs()]
        shapes = {i.name: i.shape for i in inputs if i.name.startswith("past_key_values.")}
        token = sum(4 * heads * head_dim for _, heads, _, head_dim in shapes.values())  # bytes
        context = self.artifact.context_length
        self.max_length = max_length or min(context, int(self.memory * CACHE_SHARE / token))
        if not 1 <= self.max_length <= context:
            raise InferenceError(
                f"max_length is {self.max_length}, the model has {context} positions",
                f"choose 1 to {context}",
            )
        self._cache_bytes = token * self.max_length
        self._cache = {
            name: _private((1, heads, self.max_length, head_dim))
            for name, (_, heads, _, head_dim) in shapes.items()
        }

    def _choose_what_stays(self) -> None:
        """The first pages, as many as there is room for beside the largest of the others."""
        sizes = [page.weights.nbytes for page in self._pages]
        # the buffers of the cache count as data already, and are resident only as they fill
        room = min(self.memory - resident() - self._cache_bytes, data_room()) - WORK - max(sizes)
        if room < 0:
            raise InferenceError(
                f"{self.memory / 1e6:.0f} MB do not hold this model's largest part and its cache",
                f"allow {-room / 1e6:.0f} MB more, or give a smaller max_length",
            )
        for page in self._pages[1:]:  # of the first, the table, no more than some rows are touched
            room -= page.weights.nbytes
            page.stays = room >= 0

    def _chunks(self, ids: np.ndarray) -> list[Values]:
        """The inputs of the first page: (1, tokens) ids and a mask over all tokens so far."""
        from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy
        starts = range(0, len(ids), PREFILL_CHUNK)
        chunks = [ids[None, start : start + PREFILL_CHUNK] for start in starts]
        totals = self.length + np.cumsum([chunk.shape[1] for chunk in chunks])
        return [
            {
                "input_ids": from_numpy(np.ascontiguousarray(chunk)),
                "attention_mask": from_numpy(np.ones((1, total), np.int64)),
            }
            for chunk, total in zip(chunks, totals, strict=True)
        ]

    def _run(self, page: Page, values: Values) -> Values:
        """One page on one chunk's values: those that later pages read."""
        binding = page.session.io_binding()
        for name in page.inputs:
            if name in self._cache:
                array = self._cache[name]
                pointer = array.ctypes.data
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, pointer)
                present = name.replace("past_key_values", "present")
                binding.bind_output(present, "cpu", 0, array.dtype, array.shape, pointer)
            else:
                binding.bind_ortvalue_input(name, values[name])
        outputs = [value.name for value in page.session.get_outputs()]
        made = [name for name in outputs if not name.startswith("present.")]
        for name in made:
            binding.bind_output(name, "cpu")
        with running():
            page.session.run_with_iobinding(binding)
        results = binding.get_outputs()[-len(made) :]
        known = {**values, **dict(zip(made, results, strict=True))}
        return {n: v for n, v in known.items() if n in page.later or n == "logits"}


def _open_all(artifact: Artifact, threads: int) -> list[Page]:
    """The pages in running order; the largest is opened first, as it needs as much for a while."""
    segments = packed(artifact)
    by_size = sorted(segments, key=lambda segment: -segment.nbytes)
    opened = {segment.name: _open(segment, threads) for segment in by_size}
    return [opened[segment.name] for segment in segments]


def _open(segment: PackedSegment, threads: int) -> Page:
    """A session over packed weights, which are out of memory when this returns."""
    options = thrifty_options(threads)
    # the graph was optimized when it was packed
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(segment.model, options, providers=[CPU])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise load_error(segment.folder, error) from error
    page = Page(session, MappedWeights(segment.data))
    page.weights.evict()
    return page


def _last_token(values: Values) -> Values:
    """Hidden states (1, tokens, hidden) cut to the last token, whose logits alone are wanted."""
    cut = {}
    for name, value in values.items():
        is_states = len(value.shape()) == 3
        states = np.ascontiguousarray(value.numpy()[:, -1:]) if is_states else None
        cut[name] = onnxruntime.OrtValue.ortvalue_from_numpy(states) if is_states else value
    return cut


def _private(shape: Sequence[int]) -> np.ndarray:
    """A float32 array of zeros whose pages are taken, and counted, when they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if sys.platform != "win32" else 0
    memory = mmap.mmap(-1, int(np.prod(shape)) * 4, flags=flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # or each head's first token would take 2 MB
    return np.frombuffer(memory, np.float32).reshape(shape)
