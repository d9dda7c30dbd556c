"""A solved matrix made better still, by turns: its scales for the codes, its codes for the scales.

The error is GPTQ's own, tr(E H Eᵀ) with E what the goal lacks and H the damped Hessian. Given the
codes, it is a quadratic function of each row's scales, with its minimum in closed form. Given the
scales, each code is set in turn to the best there is while all others stand, which takes back what
GPTQ could not know when it rounded the first columns (coordinate descent, as QuantEase, Behdin et
al., 2023, arXiv:2309.01885). Neither step can make the error larger, but for the scales' own
rounding to what the file holds.
"""

import numpy as np

from llmkg_lab.quantize.blocks.grid import inverse, storable
from llmkg_lab.quantize.blocks.kernels import settle_columns
from llmkg_lab.scheme import Layout


def refit(
    goal: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    hessian: np.ndarray,
    layout: Layout,
) -> np.ndarray:
    """The best scales for given codes, float32 (rows, blocks).

    goal: float32 (rows, padded); codes: uint8 of that shape; scales, zero_points: float32
    (rows, blocks); hessian: float32 (padded, padded), damped.
    """
    import torch  # in a fraction of the time that NumPy takes

    rows, blocks = scales.shape
    size = layout.block_size
    steps = torch.from_numpy(_steps(codes, zero_points))  # what a scale is multiplied with
    aims, squares = torch.from_numpy(goal), torch.from_numpy(hessian)
    normal = torch.empty(rows, blocks, blocks)
    for b in range(blocks):
        start, own = b * size, slice(b * size, (b + 1) * size)
        weighed = steps[:, own] @ squares[own, start:]  # (rows, what is not there yet)
        weighed *= steps[:, start:]
        normal[:, b, b:] = weighed.view(rows, blocks - b, size).sum(2)
        normal[:, b:, b] = normal[:, b, b:]
    aim = ((aims @ squares) * steps).view(rows, blocks, size).sum(2)
    # A block of which all codes are the zero point has no say: its scale stays
    idle = normal.diagonal(dim1=1, dim2=2) <= 0
    normal.masked_fill_(idle[:, None] | idle[:, :, None], 0)
    normal.diagonal(dim1=1, dim2=2).masked_fill_(idle, 1)
    aim = torch.where(idle, torch.from_numpy(scales), aim)
    return storable(torch.linalg.solve(normal, aim).numpy(), layout)


def sweep(
    goal: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    hessian: np.ndarray,
    layout: Layout,
) -> None:
    """Set each code once, in place, to the best for what all others are; arguments as above."""
    import torch

    size, highest = layout.block_size, 2**layout.bits - 1
    lacking = goal - _values(codes, scales, zero_points)  # (rows, padded)
    lacks, squares, inverses = torch.from_numpy(lacking), torch.from_numpy(hessian), inverse(scales)
    for b in range(scales.shape[1]):
        own = slice(b * size, (b + 1) * size)
        pull = (lacks @ squares[:, own]).numpy()  # (rows, size), what is left to gain
        grid = (column[:, b].copy() for column in (scales, inverses, zero_points))
        among = hessian[own, own].copy()
        settle_columns(pull, among, *grid, highest, codes[:, own], lacking[:, own])


def _steps(codes: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    rows, blocks = zero_points.shape
    return (codes.reshape(rows, blocks, -1) - zero_points[..., None]).reshape(rows, -1)


def _values(codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    rows, blocks = scales.shape
    steps = codes.reshape(rows, blocks, -1) - zero_points[..., None]
    return (steps * scales[..., None]).reshape(rows, -1)
