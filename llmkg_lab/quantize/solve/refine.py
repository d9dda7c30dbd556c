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
    rows, blocks = scales.shape
    steps = _steps(codes, zero_points)  # (rows, padded), what a scale is multiplied with
    size = layout.block_size
    normal = np.empty((rows, blocks, blocks), np.float32)
    for b in range(blocks):
        own = slice(b * size, (b + 1) * size)
        weighed = steps[:, own] @ hessian[own]  # (rows, padded)
        weighed *= steps
        normal[:, b] = weighed.reshape(rows, blocks, size).sum(2)
    aim = ((goal @ hessian) * steps).reshape(rows, blocks, size).sum(2)
    # A block of which all codes are the zero point has no say: its scale stays
    idle = np.einsum("rbb->rb", normal) <= 0
    normal[idle] = 0
    normal.transpose(0, 2, 1)[idle] = 0
    np.einsum("rbb->rb", normal)[idle] = 1
    found = np.linalg.solve(normal, np.where(idle, scales, aim)[..., None])[..., 0]
    return storable(found.astype(np.float32), layout)


def sweep(
    goal: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    hessian: np.ndarray,
    layout: Layout,
) -> None:
    """Set each code once, in place, to the best for what all others are; arguments as above."""
    size, highest = layout.block_size, 2**layout.bits - 1
    lacking = goal - _values(codes, scales, zero_points)  # (rows, padded)
    diagonal = np.diagonal(hessian)
    for b in range(scales.shape[1]):
        own = slice(b * size, (b + 1) * size)
        pull = (lacking @ hessian[:, own]).T.copy()  # (size, rows), what is left to gain
        among = hessian[own, own]
        scale, zero = scales[:, b], zero_points[:, b]
        per_scale = inverse(scale)
        block, old = codes[:, own].T, lacking[:, own].T
        for j in range(size):
            before = scale * (block[j] - zero)
            wanted = before + pull[j] / diagonal[b * size + j]
            code = np.clip(np.rint(wanted * per_scale) + zero, 0, highest)
            moved = scale * (code - zero) - before  # (rows,)
            block[j] = code
            old[j] -= moved
            pull[j + 1 :] -= among[j, j + 1 :, None] * moved


def _steps(codes: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    rows, blocks = zero_points.shape
    return (codes.reshape(rows, blocks, -1) - zero_points[..., None]).reshape(rows, -1)


def _values(codes: np.ndarray, scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
    rows, blocks = scales.shape
    steps = codes.reshape(rows, blocks, -1) - zero_points[..., None]
    return (steps * scales[..., None]).reshape(rows, -1)
