"""Attention over keys and values in 16 bits, beside float64 over what was given."""

import ctypes

import numpy as np
import pytest
from support.native_engine import CRemembered


class Remembered:
    """Vectors (count, size) as the engine remembers them."""

    def __init__(self, engine, vectors):
        self.codes = np.zeros(vectors.shape, np.int16)
        self.scales = np.zeros(len(vectors), np.float32)
        for i, vector in enumerate(vectors):
            places = (self.codes[i].ctypes.data, self.scales[i : i + 1].ctypes.data)
            engine.remember(vector.ctypes.data, len(vector), *places)
        self._c = CRemembered(self.codes.ctypes.data, self.scales.ctypes.data)
        self.at = ctypes.addressof(self._c)


def attend(engine, query, keys, values):
    count, size = keys.shape
    scores, out = np.zeros(count + 4, np.float32), np.zeros(size, np.float32)
    remembered = Remembered(engine, keys), Remembered(engine, values)
    places = (part.at for part in remembered)
    engine.attend(query.ctypes.data, *places, count, size, scores.ctypes.data, out.ctypes.data)
    return out


def wanted(query, keys, values):
    query, keys, values = (x.astype(np.float64) for x in (query, keys, values))
    scores = keys @ query / len(query) ** 0.5
    weights = np.exp(scores - scores.max())
    return weights / weights.sum() @ values


@pytest.mark.parametrize("spread", [1, 8])  # of some channels, as trained keys have them
@pytest.mark.parametrize(("count", "size"), [(1, 16), (7, 64), (500, 64), (129, 128)])
def test_sixteen_bits_are_as_good_as_all(engine, count, size, spread):
    rng = np.random.default_rng(count + spread)
    channels = np.where(np.arange(size) % 16 == 3, np.float32(spread), np.float32(1))
    query = rng.standard_normal(size, np.float32)
    keys = rng.standard_normal((count, size), np.float32) * channels
    values = rng.standard_normal((count, size), np.float32)
    found, exact = attend(engine, query, keys, values), wanted(query, keys, values)
    assert np.linalg.norm(found - exact) < 2e-4 * np.linalg.norm(exact)


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-20, 1e30])
def test_the_smallest_and_the_largest_are_remembered(engine, size):
    vector = np.linspace(-size, size, 32, dtype=np.float32)
    remembered = Remembered(engine, vector[None])
    found = remembered.codes[0] * remembered.scales[0].astype(np.float64)
    assert np.abs(found - vector).max() <= max(size / 65534 * 1.001, 1e-30)
