"""An encoder's sessions: one for a text on all cores, one for many texts, one core per batch.

Cores that share a batch wait for each other after every operator. With a batch each they never
do: a few hundredths faster on a quiet machine, twice as fast where other work takes the cores
(docs/lab-notes/speed.md). Both sessions map the same weights and share an arena.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.machine import default_threads
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.packed import open_artifact
from llmkg_lab.runtime.ort.session import CPU

BATCH_TOKENS = 128  # a run; more were no faster on two cores (docs/lab-notes/speed.md)
ENOUGH = 2  # batches for each core, from which on none waits long for the last

Inputs = dict[str, np.ndarray]
Batch = tuple[list[int], Inputs]  # which texts, and their inputs
Run = Callable[[onnxruntime.InferenceSession, Inputs], np.ndarray]


class EncoderSessions:
    """An artifact's sessions; arguments and errors as ``open_artifact`` has them."""

    def __init__(self, artifact: Artifact, threads: int | None = None, provider: str = CPU) -> None:
        self._artifact = artifact
        self._cores = (threads or default_threads()) if provider == CPU else 1
        self.session = open_artifact(artifact, threads, provider, shares_arena=True)

    def each(self, run: Run, batches: Iterable[Batch]) -> Iterator[tuple[list[int], np.ndarray]]:
        """What ``run`` makes of each batch's inputs, with the texts that they are of.

        Raises InferenceError on inputs that the model has no embedding of.
        """
        batches = list(batches)
        for _, inputs in batches:
            self._check(inputs)
        if self._cores == 1 or len(batches) < ENOUGH * self._cores:
            for indices, inputs in batches:
                yield indices, run(self.session, inputs)
            return
        session, pool = self._single, ThreadPoolExecutor(self._cores)
        try:
            batches.reverse()  # the longest first: the last to end is then a short one
            results = pool.map(lambda batch: run(session, batch[1]), batches)
            for (indices, _), result in zip(batches, results, strict=True):
                yield indices, result
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the runs that have begun

    def _check(self, inputs: Inputs) -> None:
        rows = {"input_ids": self._artifact.vocab_size, "token_type_ids": self._types}
        for name, count in rows.items():
            if inputs[name].max(initial=0) >= count:
                raise InferenceError(
                    f"{self._artifact.folder}: its tokenizer gives {name} of "
                    f"{inputs[name].max()}, and the model embeds {count}",
                    "tokenizer.json and weights are of different models",
                )

    @cached_property
    def _types(self) -> int:
        return self._artifact.token_types

    @cached_property
    def _single(self) -> onnxruntime.InferenceSession:
        return open_artifact(self._artifact, 1, shares_arena=True)
