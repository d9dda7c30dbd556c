"""A checkpoint of which a solver has moved some vectors: biases, or gains of norms."""

import numpy as np

from llmkg_lab.checkpoint.base import Checkpoint, TensorInfo


class Revised(Checkpoint):
    """A checkpoint with other values for some of its vectors."""

    def __init__(self, original: Checkpoint, vectors: dict[str, np.ndarray]) -> None:
        super().__init__(original.path, original.config, original.tensors, ())
        self.format = original.format
        self._original = original
        self._vectors = vectors

    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        if info.name in self._vectors:
            return self._vectors[info.name][start:stop]
        return self._original.read(info.name, slice(start, stop) if info.shape else None)

    def sidecars(self) -> dict[str, bytes]:
        return self._original.sidecars()

    @property
    def pooling(self) -> dict | None:
        return self._original.pooling
