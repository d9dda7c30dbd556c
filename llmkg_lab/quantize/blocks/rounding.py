"""Block-wise quantized matrices and the two ways to make one from the weights alone.

A row of a matrix (rows, columns) is cut into blocks; a block's values are
``scale * (code - zero_point)`` with one float32 scale and one integer zero point a block.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from llmkg_lab.quantize.blocks.grid import cover, fit_scales, inverse, search_grid
from llmkg_lab.quantize.blocks.kernels import block_ranges, round_blocks
from llmkg_lab.quantize.blocks.packing import pack, unpack
from llmkg_lab.scheme import Layout

TURNS = 3  # of fitting the scales to the codes and rounding again; more changes next to nothing


@dataclass(frozen=True)
class Quantized:
    """Some rows of a matrix, quantized and packed.

    codes: uint8 (rows, blocks, block_size * bits / 8); scales: float32 (rows, blocks);
    zero_points: uint8 (rows, ceil(blocks * bits / 8)), packed, or None where the layout is
    symmetric and the zero point is the middle code.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    layout: Layout
    columns: int
    squared_error: float  # sum over the rows of (weight - dequantized)²

    def dequantize(self) -> np.ndarray:
        """The values that the runtime computes with: float32 (rows, columns)."""
        bits, blocks = self.layout.bits, self.scales.shape[1]
        codes = unpack(self.codes, bits, self.layout.block_size).astype(np.float32)
        if self.zero_points is None:
            zero_points = np.full(self.scales.shape, 2 ** (bits - 1), np.float32)
        else:
            zero_points = unpack(self.zero_points, bits, blocks).astype(np.float32)
        values = (codes - zero_points[..., None]) * self.scales[..., None]
        return values.reshape(len(values), -1)[:, : self.columns]

    def rows(self, rows: slice, weight: np.ndarray) -> Self:
        """Some of the rows; ``weight``: what they were made from, float32 (rows, columns)."""
        zero_points = None if self.zero_points is None else self.zero_points[rows]
        part = replace(
            self, codes=self.codes[rows], scales=self.scales[rows], zero_points=zero_points
        )
        error = np.square(weight - part.dequantize(), dtype=np.float64).sum()
        return replace(part, squared_error=float(error))


def round_to_nearest(weight: np.ndarray, layout: Layout) -> Quantized:
    """Quantize float32 (rows, columns) by its blocks' ranges, each value to the nearest code."""
    blocks = _blocks(weight, layout)
    low, high = np.empty((2, *blocks.shape[:2]), np.float32)
    block_ranges(blocks.reshape(-1, layout.block_size), low.reshape(-1), high.reshape(-1))
    return _rounded(blocks, *cover(low, high, layout), layout, weight.shape[1])


def search(weight: np.ndarray, layout: Layout) -> Quantized:
    """The same with each block's scale searched for the least squared error.

    First among shrunken ranges; then scale and codes by turns, each the best for the other.
    """
    blocks = _blocks(weight, layout)
    scales, zero_points = search_grid(blocks, layout, np.ones(1, np.float32))
    for _ in range(TURNS):
        scales = fit_scales(blocks, scales, zero_points, layout)
    return _rounded(blocks, scales, zero_points, layout, weight.shape[1])


def _rounded(
    blocks: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray,
    layout: Layout,
    columns: int,
) -> Quantized:
    """Blocks (rows, blocks, block_size) on their grids (rows, blocks)."""
    bits, size = layout.bits, layout.block_size
    codes = np.empty((*scales.shape, size * bits // 8), np.uint8)
    grids = (scales.ravel(), inverse(scales).ravel(), zero_points.ravel())
    runs, packed = blocks.reshape(-1, size), codes.reshape(-1, codes.shape[-1])
    squared_error = round_blocks(runs, *grids, bits, packed)
    packed_zeros = None if layout.symmetric else pack(zero_points.astype(np.uint8), bits)
    return Quantized(codes, scales, packed_zeros, layout, columns, squared_error)


def _blocks(weight: np.ndarray, layout: Layout) -> np.ndarray:
    """Float32 (rows, columns) as (rows, blocks, block_size), rows filled up with zeros."""
    if ragged := -weight.shape[1] % layout.block_size:  # zeros change no range: it holds zero
        weight = np.pad(weight, ((0, 0), (0, ragged)))
    return np.ascontiguousarray(weight).reshape(len(weight), -1, layout.block_size)
