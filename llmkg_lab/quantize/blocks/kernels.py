"""The inner loops of block-wise quantization, compiled by Numba (numba.pydata.org).

NumPy would walk over the weights fifteen times and hold the interpreter's lock between walks;
here a block is read, rounded and packed at once, and converting threads do not wait for one
another. What the compiler made is kept on the disk: the first conversion on a machine takes some
seconds longer.

Codes are the same on every processor. The error's sum may differ in its last digits, for the
compiler adds in the order that suits the processor.
"""

from collections.abc import Callable

import numpy as np
from numba import njit


def _compiled(**options: object) -> Callable[[Callable], Callable]:
    """Numba's compiler; where no folder takes what it made, each process compiles anew."""

    def compile_(function: Callable) -> Callable:
        try:
            return njit(function, nogil=True, cache=True, **options)
        except RuntimeError:  # neither beside this file nor in the user's cache
            return njit(function, nogil=True, **options)

    return compile_


# Weights are finite: checkpoints are checked. So comparisons need not think of NaN.
@_compiled(fastmath={"nnan", "nsz"})
def block_ranges(blocks: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """The least and the largest value of each block.

    blocks: float32 (blocks, block_size). Written: low, high, float32 (blocks,).
    """
    for i in range(len(blocks)):
        least = largest = blocks[i, 0]
        for value in blocks[i]:
            least = min(least, value)
            largest = max(largest, value)
        low[i], high[i] = least, largest


@_compiled(error_model="numpy", fastmath={"nnan", "nsz", "reassoc"})
def round_blocks(
    blocks: np.ndarray,
    scales: np.ndarray,
    inverses: np.ndarray,
    zero_points: np.ndarray,
    bits: int,
    packed: np.ndarray,
) -> float:
    """Each value to its nearest code, codes packed, the first of a byte in its lowest bits.

    blocks: float32 (blocks, block_size); scales, inverses (1 / scales, or 0) and zero_points:
    float32 (blocks,). Written: packed, uint8 (blocks, block_size * bits / 8).
    Returns the sum of (value - dequantized)².
    """
    top = np.float32(2**bits - 1)
    codes = np.empty(blocks.shape[1], np.uint8)
    total = 0.0
    for i in range(len(blocks)):
        inverse, zero_point = inverses[i], zero_points[i]
        error = np.float32(0)  # in units of the scale
        for j in range(len(codes)):
            exact = blocks[i, j] * inverse
            code = min(max(np.rint(exact) + zero_point, np.float32(0)), top)
            codes[j] = np.uint8(np.int32(code))
            exact -= code - zero_point
            error += exact * exact
        total += np.float64(error) * np.float64(scales[i]) ** 2
        _pack(codes, bits, packed[i])
    return total


@njit(inline="always")
def _pack(codes: np.ndarray, bits: int, packed: np.ndarray) -> None:
    """One block. Each width is written out: with its constants the compiler makes one loop fast."""
    if bits == 8:
        packed[:] = codes
    elif bits == 4:
        for i in range(len(packed)):
            packed[i] = codes[2 * i] | codes[2 * i + 1] << 4
    else:
        for i in range(len(packed)):
            low, high = (
                codes[4 * i] | codes[4 * i + 1] << 2,
                codes[4 * i + 2] | codes[4 * i + 3] << 2,
            )
            packed[i] = low | high << 4


@_compiled(error_model="numpy")
def errors_on_grids(
    blocks: np.ndarray,
    scales: np.ndarray,
    inverses: np.ndarray,
    zero_points: np.ndarray,
    highest: int,
    importance: np.ndarray,
    errors: np.ndarray,
) -> None:
    """The weighted squared error of each block on each of its grids.

    blocks: float32 (blocks, block_size), of a multiple of 8 values; scales, inverses, zero_points:
    float32 (grids, blocks); importance: float32 (block_size,). Written: errors, float32 (grids,
    blocks); infinite or NaN for a grid that is too wide to count in float32.
    """
    top, lanes = np.float32(highest), np.empty(8, np.float32)
    for g in range(len(scales)):
        for i in range(len(blocks)):
            scale, inverse, zero_point = scales[g, i], inverses[g, i], zero_points[g, i]
            lanes[:] = 0
            for start in range(0, blocks.shape[1], 8):
                for lane in range(8):  # side by side: the compiler may not change the order of sums
                    exact = blocks[i, start + lane] * inverse
                    code = min(max(np.rint(exact), -zero_point), top - zero_point)
                    exact -= code
                    lanes[lane] += exact * exact * importance[start + lane]
            halves = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
            halves += (lanes[4] + lanes[5]) + (lanes[6] + lanes[7])
            errors[g, i] = halves * (scale * scale)


# Whole numbers stay exact, so that only the order of additions is the compiler's.
@_compiled(fastmath={"nnan", "nsz", "reassoc", "contract"})
def round_columns(
    values: np.ndarray,
    factor: np.ndarray,
    scales: np.ndarray,
    inverses: np.ndarray,
    zero_points: np.ndarray,
    highest: int,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Round one block of each row, column after column, as GPTQ does.

    values: float32 (rows, block_size), used up: a column's error goes to those after it by
    ``factor``, float32 (block_size, block_size), upper triangular. scales, inverses, zero_points:
    float32 (rows,). Written: codes, uint8 (rows, block_size), and errors, float32 of that shape,
    in units of the factor's diagonal.
    """
    rows, size = values.shape
    for r in range(rows):
        scale, inverse, zero = scales[r], inverses[r], zero_points[r]
        row = values[r]
        for j in range(size):
            code = min(max(np.rint(row[j] * inverse) + zero, np.float32(0)), np.float32(highest))
            codes[r, j] = np.uint8(code)
            error = (row[j] - scale * (code - zero)) / factor[j, j]
            errors[r, j] = error
            for k in range(j + 1, size):
                row[k] -= factor[j, k] * error


@_compiled(fastmath={"nnan", "nsz", "reassoc", "contract"})
def settle_columns(
    pull: np.ndarray,
    among: np.ndarray,
    scales: np.ndarray,
    inverses: np.ndarray,
    zero_points: np.ndarray,
    highest: int,
    codes: np.ndarray,
    lacking: np.ndarray,
) -> None:
    """Set each code of one block of each row to the best for what all others are.

    pull: float32 (rows, block_size), half the error's slope, used up; among: float32 (block_size,
    block_size), the Hessian of the block; the rest as in ``round_columns``. Changed in place:
    codes, and lacking, float32 (rows, block_size), what the goal lacks.
    """
    rows, size = pull.shape
    for r in range(rows):
        scale, inverse, zero = scales[r], inverses[r], zero_points[r]
        row = pull[r]
        for j in range(size):
            before = scale * (np.float32(codes[r, j]) - zero)
            wanted = before + row[j] / among[j, j]
            code = min(max(np.rint(wanted * inverse) + zero, np.float32(0)), np.float32(highest))
            moved = scale * (code - zero) - before
            codes[r, j] = np.uint8(code)
            lacking[r, j] -= moved
            for k in range(j + 1, size):
                row[k] -= among[j, k] * moved
