"""GPTQ: rounding that makes up for its own errors (Frantar et al., 2022, arXiv:2210.17323).

A layer's output error is measured by the Hessian H = Σ x xᵀ over calibration inputs x. Columns
are rounded one after another, and each column's error is spread over the columns still to
come, in the way that disturbs the outputs least.

Columns of large inputs go first, while there are many left to take up their errors. Whole
blocks are put in order, then the columns inside a block, so that a block's grid can be chosen
when its turn comes, for the values that it then has, and the stored order stays as it was.
"""

from typing import NamedTuple

import numpy as np

from llmkg_lab.quantize.blocks.grid import inverse, search_grid
from llmkg_lab.quantize.blocks.kernels import round_columns
from llmkg_lab.quantize.blocks.packing import pack
from llmkg_lab.quantize.blocks.rounding import Quantized
from llmkg_lab.quantize.solve.refine import refit, sweep
from llmkg_lab.scheme import Layout

DAMPING = 0.01  # of the mean of the Hessian's diagonal, added to it: the paper's own
ROUNDS = 1  # of refinement


class Factored(NamedTuple):
    """A Hessian made ready for solving: see ``factored``."""

    hessian: np.ndarray  # float32 (padded, padded), damped
    order: np.ndarray  # int (padded,): columns in the order in which they are rounded
    factor: np.ndarray  # float32 (padded, padded), in that order


def factored(hessian: np.ndarray, block_size: int, damping: float = DAMPING) -> Factored:
    """What all matrices that read the same inputs share, at one block size.

    hessian: (columns, columns), Σ x xᵀ over the inputs, up to a factor.
    """
    hessian = np.pad(hessian.astype(np.float64), (0, -len(hessian) % block_size))
    mean = np.diagonal(hessian).mean()
    damped = hessian + (damping * mean if mean > 0 else 1.0) * np.eye(len(hessian))
    order = _order(np.diagonal(hessian), block_size)
    factor = inverse_factor(damped[np.ix_(order, order)])
    return Factored(damped.astype(np.float32), order, factor)


def gptq(
    weight: np.ndarray, hessian: np.ndarray | Factored, layout: Layout, rounds: int = ROUNDS
) -> Quantized:
    """Quantize a matrix for the inputs that its Hessian describes.

    weight: float32 (rows, columns); hessian: Σ x xᵀ, or that made ready for this block size;
    rounds: how often scales and codes are then refined by turns.
    Rows are independent of one another: matrices that share their inputs may be stacked.
    """
    if not isinstance(hessian, Factored):
        hessian = factored(hessian, layout.block_size)
    rows, columns = weight.shape
    padded, size = len(hessian.order), layout.block_size
    goal = np.pad(weight, ((0, 0), (0, padded - columns)))
    factor, order = hessian.factor, hessian.order
    work = np.ascontiguousarray(goal[:, order])
    codes = np.empty((rows, padded), np.uint8)
    scales = np.empty((rows, padded // size), np.float32)
    zero_points = np.empty_like(scales)
    for start in range(0, padded, size):
        stop = start + size
        block, own = work[:, start:stop].copy(), factor[start:stop, start:stop].copy()
        importance = np.diagonal(own) ** -2  # what a squared error costs, by GPTQ's own measure
        scale, zero = search_grid(block, layout, importance)
        found, errors = np.empty(block.shape, np.uint8), np.empty_like(block)
        highest = 2**layout.bits - 1
        round_columns(block, own, scale, inverse(scale), zero, highest, found, errors)
        i = order[start] // size
        codes[:, order[start:stop]], scales[:, i], zero_points[:, i] = found, scale, zero
        _subtract_product(work[:, stop:], errors, factor[start:stop, stop:])
    return _refined(goal, codes, scales, zero_points, hessian, layout, columns, rounds)


def _subtract_product(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Subtract ``left @ right`` from ``values`` in place."""
    import torch  # in half the time that NumPy takes

    into, *factors = map(torch.from_numpy, (values, left, right))
    into.addmm_(*factors, alpha=-1)


def _order(diagonal: np.ndarray, block_size: int) -> np.ndarray:
    """Columns (padded,), large inputs first, blocks kept together."""
    energies = diagonal.reshape(-1, block_size)
    inside = np.argsort(-energies, axis=1, kind="stable")
    blocks = np.argsort(-energies.sum(1), kind="stable")
    return (inside + block_size * np.arange(len(energies))[:, None])[blocks].ravel()


def inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """Upper triangular U with UᵀU the inverse of the Hessian, float32.

    Row i of U, divided by its diagonal, tells how an error of column i spreads to the right.
    """
    import torch  # several times as fast as NumPy here

    # Factored from the lower right corner, H = R Rᵀ with R upper triangular: U is its inverse.
    lower = torch.linalg.cholesky(torch.from_numpy(hessian[::-1, ::-1].copy()))
    upper = lower.flip(0, 1).float()
    return torch.linalg.solve_triangular(upper, torch.eye(len(upper)), upper=True).numpy()


def _refined(
    goal: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    hessian: Factored,
    layout: Layout,
    columns: int,
    rounds: int,
) -> Quantized:
    """Codes (rows, padded) and grids (rows, blocks), refined and packed for the runtime."""
    for _ in range(rounds):
        scales = refit(goal, codes, scales, zero_points, hessian.hessian, layout)
        sweep(goal, codes, scales, zero_points, hessian.hessian, layout)
    per_block = codes.reshape(*scales.shape, layout.block_size)
    values = (per_block - zero_points[..., None]) * scales[..., None]
    error = goal[:, :columns] - values.reshape(goal.shape)[:, :columns]
    return Quantized(
        codes=pack(per_block, layout.bits),
        scales=scales,
        zero_points=None if layout.symmetric else pack(zero_points.astype(np.uint8), layout.bits),
        layout=layout,
        columns=columns,
        squared_error=float(np.square(error, dtype=np.float64).sum()),
    )
