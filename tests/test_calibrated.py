"""Calibrated quantization: the solvers, by the outputs of layers and of whole models."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkg_lab.quantize import Layout
from llmkg_lab.quantize.blockwise import round_to_nearest
from llmkg_lab.quantize.gptq import gptq
from llmkg_lab.quantize.grid import range_grid, search_grid

LAYOUTS = [Layout(bits, size, sym) for bits in (4, 8) for size in (32, 64) for sym in (True, False)]


def correlated(rows: int, columns: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """A random weight (rows, columns), and inputs (samples, columns) of a few strong directions."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(columns // 4, columns)) * random.lognormal(size=columns)
    inputs = random.normal(size=(samples, columns // 4)) @ directions
    inputs += 0.1 * random.normal(size=inputs.shape)
    return random.normal(size=(rows, columns)).astype(np.float32), inputs.astype(np.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("columns", [128, 80])  # 80: the last block is ragged
def test_gptq_halves_the_output_error_of_round_to_nearest(layout, columns):
    weight, inputs = correlated(24, columns, 400)

    def error(quantized) -> float:
        return float(np.square(inputs @ (weight - quantized.dequantize()).T).mean())

    solved = gptq(weight, inputs.T @ inputs, layout)
    assert error(solved) < 0.5 * error(round_to_nearest(weight, layout))
    difference = np.square(weight - solved.dequantize(), dtype=np.float64).sum()
    assert solved.squared_error == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gptq_of_unrelated_inputs_only_rounds(layout):
    """With H the identity, no error can be made up for: the codes are those of the grid alone."""
    weight, _ = correlated(8, 100, 1)
    solved = gptq(weight, np.eye(100), layout)
    steps = np.abs(np.repeat(solved.scales, layout.block_size, axis=1)[:, :100])
    rounded = np.square(solved.dequantize() - weight).sum()
    assert rounded <= np.square(round_to_nearest(weight, layout).dequantize() - weight).sum()
    assert np.mean(np.abs(solved.dequantize() - weight) <= 0.5001 * steps) > 0.9  # but for clipping


@settings(deadline=None)
@given(st.sampled_from(LAYOUTS), st.integers(0, 2**32 - 1))
def test_the_searched_grid_is_never_worse_than_the_range(layout, seed):
    random = np.random.default_rng(seed)
    blocks = random.standard_t(3, size=(6, layout.block_size)).astype(np.float32)
    importance = random.lognormal(size=layout.block_size).astype(np.float32)

    def error(scales: np.ndarray, zero_points: np.ndarray) -> np.ndarray:
        lowest = -zero_points[:, None]
        codes = np.clip(np.rint(blocks / scales[:, None]), lowest, lowest + 2**layout.bits - 1)
        return (np.square(codes * scales[:, None] - blocks) * importance).sum(1)

    searched = error(*search_grid(blocks, layout, importance))
    assert np.all(searched <= error(*range_grid(blocks, layout)) * 1.0001)


def test_gptq_takes_inputs_that_are_all_zero():
    weight, _ = correlated(4, 64, 1)
    solved = gptq(weight, np.zeros((64, 64)), Layout(4, 32, False))
    assert np.abs(solved.dequantize() - weight).max() < 0.5
