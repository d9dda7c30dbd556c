"""One matrix under the lens: how its weights spread, and what a layout makes of them."""

from dataclasses import dataclass

import numpy as np

from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.quantize.blocks.rounding import round_to_nearest
from llmkg_lab.scheme import Layout

SAMPLE = 1 << 21  # weights looked at; of a larger matrix, RUNS of rows at even distances
RUNS = 32
BINS = 121


@dataclass(frozen=True)
class Lens:
    """Histograms (BINS,) of the weights and of weight − stored, over the same rows."""

    name: str
    shape: tuple[int, int]
    rows: int  # looked at
    weight_edges: np.ndarray  # (BINS + 1,)
    weights: np.ndarray
    error_edges: np.ndarray
    errors: np.ndarray
    rms_weight: float
    rms_error: float
    largest_weight: float
    largest_error: float
    kurtosis: float  # 3 for a normal distribution; more: rare large weights widen their blocks

    @property
    def relative_error(self) -> float:
        """Root mean square of the error, relative to the weights' own."""
        return self.rms_error / self.rms_weight if self.rms_weight else 0.0


def look(checkpoint: Checkpoint, name: str, layout: Layout) -> Lens:
    """Round a matrix to nearest in ``layout`` and compare. Raises CheckpointError."""
    rows, columns = checkpoint.tensors[name].shape
    weight = _sample(checkpoint, name)
    error = weight - round_to_nearest(weight, layout).dequantize()
    weights, weight_edges = _histogram(weight)
    errors, error_edges = _histogram(error)
    square = np.square(weight, dtype=np.float64)
    variance = square.mean()
    return Lens(
        name=name,
        shape=(rows, columns),
        rows=len(weight),
        weight_edges=weight_edges,
        weights=weights,
        error_edges=error_edges,
        errors=errors,
        rms_weight=float(variance**0.5),
        rms_error=float(np.square(error, dtype=np.float64).mean() ** 0.5),
        largest_weight=float(np.abs(weight).max()),
        largest_error=float(np.abs(error).max()),
        kurtosis=float(np.square(square).mean() / variance**2) if variance else 0.0,
    )


def _sample(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """A matrix, or runs of its rows, float32 (rows, columns)."""
    rows, columns = checkpoint.tensors[name].shape
    run = max(1, SAMPLE // columns // RUNS)
    if rows <= RUNS * run:
        return checkpoint.read(name)
    starts = np.linspace(0, rows - run, RUNS).astype(int)
    return np.concatenate([checkpoint.read(name, slice(s, s + run)) for s in starts.tolist()])


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts over a range that is symmetric about zero and holds every value."""
    limit = float(np.abs(values).max()) or 1e-12
    return np.histogram(values, BINS, (-limit, limit))
