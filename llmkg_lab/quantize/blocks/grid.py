"""Scales and zero points of blocks: from the range, or from a search for the least error."""

import numpy as np

from llmkg_lab.quantize.blocks.kernels import errors_on_grids
from llmkg_lab.scheme import Layout

TINY = np.finfo(np.float32).tiny  # the smallest normal number: 1 / TINY is still finite

# Fractions of a block's range that the search tries. Clipping a block's few extreme values can
# cost less than a coarser grid costs all the others; below 0.7 it never does at 4 bits.
SHRINKS = np.linspace(1, 0.7, 11, dtype=np.float32)[:, None]
AT_ONCE = 128  # blocks, which all shrinks of them leave in the processor's cache


def cover(low: np.ndarray, high: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The grids of blocks whose values lie from ``low`` to ``high``, float32 of any shape.

    Returns scales and zero points of the same shape and type, zero points whole numbers.
    """
    half = np.float32(2 ** (layout.bits - 1))
    if layout.symmetric:
        # The value of the largest magnitude lands on the lowest code, of which there is one
        # more than of positive ones; so the scale takes the opposite of its sign.
        scales = storable(np.where(-low >= high, low, high) / -half, layout)
        return scales, np.full_like(scales, half)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    levels = np.float32(2**layout.bits - 1)
    scales = high / levels - low / levels  # two quotients: their difference cannot overflow
    scales = storable(scales, layout)
    zero_points = np.rint(-low / np.where(scales > 0, scales, 1))
    return scales, np.minimum(zero_points, levels)


def search_grid(
    blocks: np.ndarray, layout: Layout, importance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The grid of the least squared error among shrunken ranges.

    blocks: float32 (…, block_size); importance: the weight of each squared error in a block,
    float32 (block_size,), or (1,) where all weigh the same. Returns the same as cover.
    """
    runs = blocks.reshape(-1, blocks.shape[-1])
    scales, zero_points = np.empty((2, len(runs)), np.float32)
    for start in range(0, len(runs), AT_ONCE):
        own = slice(start, start + AT_ONCE)
        scales[own], zero_points[own] = _searched(runs[own], layout, importance)
    return scales.reshape(blocks.shape[:-1]), zero_points.reshape(blocks.shape[:-1])


def _searched(
    blocks: np.ndarray, layout: Layout, importance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All shrunken ranges of (n, block_size) side by side."""
    low, high = blocks.min(-1) * SHRINKS, blocks.max(-1) * SHRINKS  # (shrinks, n)
    scales, zero_points = cover(low, high, layout)
    errors = np.empty(scales.shape, np.float32)
    weights = np.broadcast_to(importance, blocks.shape[-1:])
    highest = 2**layout.bits - 1
    errors_on_grids(blocks, scales, inverse(scales), zero_points, highest, weights, errors)
    best = np.where(np.isnan(errors), np.inf, errors).argmin(0)  # the largest range of equals
    own = np.arange(len(blocks))
    return scales[best, own], zero_points[best, own]


def fit_scales(
    blocks: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, layout: Layout
) -> np.ndarray:
    """The scales of the least squared error for the codes that ``scales`` round to."""
    lowest = -zero_points[..., None]
    steps = np.clip(
        np.rint(blocks * inverse(scales)[..., None]), lowest, lowest + (2**layout.bits - 1)
    )
    energy = np.einsum("...i,...i->...", steps, steps)
    fitted = np.einsum("...i,...i->...", blocks, steps) / np.where(energy > 0, energy, 1)
    return storable(np.where(energy > 0, fitted, scales), layout)


def storable(scales: np.ndarray, layout: Layout) -> np.ndarray:
    """The scales as the file will hold them, float32."""
    if not layout.half_scales:
        return scales
    limit = np.finfo(np.float16).max
    return np.clip(scales, -limit, limit).astype(np.float16).astype(np.float32)


def inverse(scales: np.ndarray) -> np.ndarray:
    """1 / scales, and zero for the scale of a block that is all zeros."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(np.abs(scales) < TINY, 0, 1 / scales)
