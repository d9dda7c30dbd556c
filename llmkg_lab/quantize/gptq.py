"""GPTQ: rounding that makes up for its own errors (Frantar et al., 2022, arXiv:2210.17323).

A layer's output error is measured by the Hessian H = Σ x xᵀ over calibration inputs x. Columns
are rounded one after another, and each column's error is spread over the columns still to
come, in the way that disturbs the outputs least.

Columns of large inputs go first, while there are many left to take up their errors. Whole
blocks are put in order, then the columns inside a block, so that a block's grid can be chosen
when its turn comes, for the values that it then has, and the stored order stays as it was.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmkg_lab.quantize.blockwise import Quantized
from llmkg_lab.quantize.grid import inverse, search_grid
from llmkg_lab.quantize.packing import pack
from llmkg_lab.quantize.scheme import Layout

DAMPING = 0.01  # of the mean of the Hessian's diagonal, added to it: the paper's own


class Factored(NamedTuple):
    """A Hessian made ready for solving: see ``factored``."""

    order: np.ndarray  # int (padded,): columns in the order in which they are rounded
    factor: np.ndarray  # float32 (padded, padded), in that order


def factored(hessian: np.ndarray, block_sizes: Sequence[int], damping: float = DAMPING) -> Factored:
    """What all matrices that read the same inputs share, at any of ``block_sizes`` (falling).

    hessian: (columns, columns), Σ x xᵀ over the inputs, up to a factor.
    """
    padding = -len(hessian) % block_sizes[0]
    hessian = np.pad(hessian.astype(np.float64), (0, padding))
    order = _order(np.diagonal(hessian), block_sizes)
    return Factored(order, _inverse_factor(hessian[np.ix_(order, order)], damping))


def gptq(weight: np.ndarray, hessian: np.ndarray | Factored, layout: Layout) -> Quantized:
    """Quantize a matrix for the inputs that its Hessian describes.

    weight: float32 (rows, columns); hessian: Σ x xᵀ, or that made ready for this block size.
    Rows are independent of one another: matrices that share their inputs may be stacked.
    """
    if not isinstance(hessian, Factored):
        hessian = factored(hessian, (layout.block_size,))
    rows, columns = weight.shape
    size, blocks = layout.block_size, layout.blocks(columns)
    kept = hessian.order < blocks * size  # prepared for wider blocks, there is more padding
    order = hessian.order[kept]
    factor = hessian.factor if kept.all() else hessian.factor[np.ix_(kept, kept)]
    work = np.pad(weight, ((0, 0), (0, blocks * size - columns))).T[order]  # (padded, rows)
    codes = np.empty((len(order), rows), np.uint8)
    scales = np.empty((blocks, rows), np.float32)
    zero_points = np.empty_like(scales)
    for start in range(0, len(order), size):
        stop = start + size
        block, own = work[start:stop], factor[start:stop, start:stop]
        importance = np.diagonal(own) ** -2  # what a squared error costs, by GPTQ's own measure
        grid = search_grid(np.ascontiguousarray(block.T), layout, importance)
        i = order[start] // size
        scales[i], zero_points[i] = grid
        codes[order[start:stop]], errors = _round_block(block, own, *grid, layout)
        work[stop:] -= factor[start:stop, stop:].T @ errors
    return _quantized(weight, codes, scales, zero_points, layout)


def _order(energies: np.ndarray, block_sizes: Sequence[int]) -> np.ndarray:
    """Columns by falling energy, but blocks kept together, and the smaller ones inside them."""
    if not block_sizes:
        return np.argsort(-energies, kind="stable")
    size = block_sizes[0]
    blocks = energies.reshape(-1, size)
    first = np.argsort(-blocks.sum(1), kind="stable")
    return np.concatenate([i * size + _order(blocks[i], block_sizes[1:]) for i in first])


def _inverse_factor(hessian: np.ndarray, damping: float) -> np.ndarray:
    """Upper triangular U with UᵀU the inverse of the damped Hessian, float32.

    Row i of U, divided by its diagonal, tells how an error of column i spreads to the right.
    """
    mean = np.diagonal(hessian).mean()
    hessian = hessian + (damping * mean if mean > 0 else 1.0) * np.eye(len(hessian))
    # Factored from the lower right corner, H = R Rᵀ with R upper triangular: U is its inverse.
    lower = np.linalg.cholesky(hessian[::-1, ::-1])
    return np.linalg.inv(lower[::-1, ::-1].astype(np.float32))


def _round_block(
    block: np.ndarray,
    factor: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    layout: Layout,
) -> tuple[np.ndarray, np.ndarray]:
    """Round a block (block_size, rows), column after column; the block is used up.

    Returns codes uint8 (block_size, rows) and errors float32 in units of the factor's diagonal.
    """
    codes, errors = np.empty(block.shape, np.uint8), np.empty_like(block)
    inverses = inverse(scales)
    for i, column in enumerate(block):
        code = np.rint(column * inverses) + zero_points
        np.clip(code, 0, 2**layout.bits - 1, out=code)
        codes[i] = code
        errors[i] = (column - scales * (code - zero_points)) / factor[i, i]
        block[i + 1 :] -= factor[i, i + 1 :, None] * errors[i]
    return codes, errors


def _quantized(
    weight: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    layout: Layout,
) -> Quantized:
    """Codes (padded, rows) and grids (blocks, rows), packed as the runtime reads them."""
    blocks, rows = scales.shape
    values = (codes.reshape(blocks, -1, rows) - zero_points[:, None]) * scales[:, None]
    values = values.reshape(-1, rows)[: weight.shape[1]].T
    per_row = np.ascontiguousarray(codes.T).reshape(rows, blocks, layout.block_size)
    packed = pack(np.ascontiguousarray(zero_points.T).astype(np.uint8), layout.bits)
    return Quantized(
        codes=pack(per_row, layout.bits),
        scales=np.ascontiguousarray(scales.T),
        zero_points=None if layout.symmetric else packed,
        layout=layout,
        columns=weight.shape[1],
        squared_error=float(np.square(weight - values, dtype=np.float64).sum()),
    )
