"""A checkpoint seen with other values: channels rescaled, or vectors that a solver has moved."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from llmkg_lab.checkpoint.base import Checkpoint, TensorInfo
from llmkg_lab.models.base import Coupling


class View(Checkpoint):
    """Another checkpoint's files with some values changed when they are read."""

    def __init__(self, original: Checkpoint, tensors: Mapping[str, TensorInfo]) -> None:
        super().__init__(original.path, original.config, tensors, ())
        self.format = original.format  # type: ignore[misc]  # a view is in its original's format
        self._original = original

    def sidecars(self) -> dict[str, bytes]:
        return self._original.sidecars()

    def _remarks(self) -> Iterator[str]:
        yield from self._original.warnings

    @property
    def pooling(self) -> dict[str, Any] | None:
        return self._original.pooling


class Revised(View):
    """A checkpoint with other values for some of its vectors: biases, or gains of norms."""

    def __init__(self, original: Checkpoint, vectors: dict[str, np.ndarray]) -> None:
        super().__init__(original, original.tensors)
        self._vectors = vectors

    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        if info.name in self._vectors:
            return self._vectors[info.name][start:stop]
        return self._original.read(info.name, slice(start, stop) if info.shape else None)


class Rescaled(View):
    """A checkpoint seen through factors: the producer's channels times, the consumers' by them.

    Args:
        original: What is rescaled.
        couplings: Which channels trade their factors.
        factors: float32 (channels,) by the producer's name.
    """

    def __init__(
        self,
        original: Checkpoint,
        couplings: Iterable[Coupling],
        factors: Mapping[str, np.ndarray],
    ) -> None:
        tensors = {
            name: TensorInfo(name, info.shape, "F32", math.prod(info.shape) * 4)
            for name, info in original.tensors.items()
        }
        super().__init__(original, tensors)
        self._rows: dict[str, np.ndarray] = {}
        self._columns: dict[str, np.ndarray] = {}
        for coupling in couplings:
            own = factors[coupling.producer]
            self._rows |= dict.fromkeys((coupling.producer, *coupling.biases), own)
            for consumer in coupling.consumers:
                self._columns[consumer] = 1 / spread(coupling, own)

    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        values = self._original.read(info.name, slice(start, stop))
        if info.name in self._rows:
            rows = self._rows[info.name][start:stop]
            values = values * rows.reshape(-1, *[1] * (values.ndim - 1))
        return values * self._columns[info.name] if info.name in self._columns else values

    def fingerprint(self, step: Callable[[int], object] = lambda nbytes: None) -> str:
        digest = hashlib.sha256(self._original.fingerprint(step).encode())
        for factors in (self._rows, self._columns):
            for name in sorted(factors):
                digest.update(name.encode() + factors[name].tobytes())
        return digest.hexdigest()


def spread(coupling: Coupling, factors: np.ndarray) -> np.ndarray:
    """Factors (channels,) as the consumers' columns see them, (columns,)."""
    heads, group = coupling.heads
    return np.repeat(factors.reshape(heads, -1), group, axis=0).ravel()
