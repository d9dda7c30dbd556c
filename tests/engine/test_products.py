"""Products in all layouts, judged by ONNX Runtime's own dequantization and plain arithmetic."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from support.native_engine import NativeMatrix

from llmkg_lab.quantize.blocks.rounding import Quantized, round_to_nearest
from llmkg_lab.scheme import Layout

LAYOUTS = [
    Layout(bits, size, symmetric, half)
    for bits in (2, 4, 8)
    for size in (32, 64, 128)
    for symmetric in (True, False)
    for half in (True, False)
]


def dequantized(quantized: Quantized) -> np.ndarray:
    """(rows, columns), by MatMulNBits of ONNX Runtime with the identity."""
    layout, (rows, columns) = quantized.layout, (len(quantized.codes), quantized.columns)
    weights = {"codes": quantized.codes, "scales": quantized.scales}
    if quantized.zero_points is not None:
        weights["zeros"] = quantized.zero_points
    node = helper.make_node(
        "MatMulNBits", ["x", *weights], ["y"], domain="com.microsoft", K=columns, N=rows,
        bits=layout.bits, block_size=layout.block_size,
    )  # fmt: skip
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "product", [value("x", TensorProto.FLOAT, [None, columns])],
        [value("y", TensorProto.FLOAT, [None, rows])], tensors,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"x": np.eye(columns, dtype=np.float32)})[0].T


def rounded(x: np.ndarray, size: int) -> np.ndarray:
    """x (tokens, columns) as 8-bit activations in blocks, float64."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % size))).reshape(len(x), -1, size)
    largest = np.abs(padded).max(-1, keepdims=True)
    codes = np.rint(padded * (np.float32(127) / np.where(largest > 0, largest, 1)))
    values = codes.astype(np.float64) * (largest / np.float32(127))
    return values.reshape(len(x), -1)[:, : x.shape[1]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_products_are_those_of_the_rounded_activations(engine, layout):
    rng = np.random.default_rng(LAYOUTS.index(layout))
    for _ in range(3):
        rows, columns, tokens = rng.integers(1, 40), rng.integers(1, 700), rng.integers(2, 12)
        weight = rng.standard_normal((rows, columns), np.float32) * 10.0 ** rng.integers(-4, 2)
        weight[rng.integers(rows)] = 0
        quantized = round_to_nearest(weight.astype(np.float32), layout)
        bias = rng.standard_normal(rows, np.float32) if rng.integers(2) else None
        matrix = NativeMatrix(engine, quantized, bias)
        x = rng.standard_normal((tokens, columns), np.float32)
        x[0] = 0
        exact = dequantized(quantized)
        np.testing.assert_array_equal([matrix.row(i) for i in range(rows)], exact)
        wanted = rounded(x, layout.block_size) @ exact.T.astype(np.float64)
        together = matrix.times(x)
        scale = np.abs(rounded(x, layout.block_size)) @ np.abs(exact).T.astype(np.float64) + 1e-30
        offset = 0 if bias is None else bias
        allowed = 3e-6 * scale + 2e-7 * np.abs(offset) + 1e-12
        assert np.all(np.abs(together - (wanted + offset)) <= allowed)
        # one token alone, and rows in parts: the same bits
        np.testing.assert_array_equal(
            np.concatenate([matrix.times(row[None]) for row in x]), together
        )
        middle = rows // 2
        np.testing.assert_array_equal(matrix.times(x, 0, middle)[:, :middle], together[:, :middle])
        np.testing.assert_array_equal(matrix.times(x, middle)[:, middle:], together[:, middle:])


def test_turns_are_as_exact_as_float32_is(engine):
    frequencies = np.concatenate([[1, 0.5], 10.0 ** np.linspace(-6, 0, 30)]).astype(np.float32)
    half = len(frequencies)
    for position in (0, 1, 2, 7, 1000, 8191, 131_071, 1 << 20):
        found = np.empty((2, half), np.float32)
        engine.turns_of(position, frequencies.ctypes.data, half, found.ctypes.data)
        angles = (np.float32(position) * frequencies).astype(np.float64)
        for values, function in zip(found, (np.cos, np.sin), strict=True):
            np.testing.assert_allclose(values, function(angles), rtol=6.1e-8, atol=1e-12)


def likeliest(logits, k):
    """The k largest and what equals the last of them, by NumPy's stable sort."""
    numbers = np.flatnonzero(~np.isnan(logits))
    order = numbers[np.argsort(-logits[numbers], kind="stable")]
    if k >= len(order):
        return order
    return order[: np.count_nonzero(logits[order] >= logits[order[k - 1]])]


@given(
    logits=arrays(
        np.float32,
        st.integers(1, 200),
        elements=st.one_of(st.floats(width=32), st.sampled_from([np.float32(0.5), np.float32(-3)])),
    ),
    k=st.integers(1, 220),
)
def test_the_likeliest_tokens_are_those_of_a_stable_sort(engine, logits, k):
    ids = np.empty(len(logits), np.uint32)
    found = engine.most_likely(logits.ctypes.data, len(logits), k, ids.ctypes.data)
    np.testing.assert_array_equal(ids[:found], likeliest(logits, k))


def test_the_likeliest_of_a_whole_vocabulary(engine):
    rng = np.random.default_rng(3)
    for logits in (
        rng.standard_normal(49_152, np.float32),
        np.arange(49_152, dtype=np.float32),
        rng.integers(0, 9, 32_003).astype(np.float32),
    ):
        ids = np.empty(len(logits), np.uint32)
        for k in (1, 2, 50, 1000, len(logits)):
            found = engine.most_likely(logits.ctypes.data, len(logits), k, ids.ctypes.data)
            np.testing.assert_array_equal(ids[:found], likeliest(logits, k))


def test_the_engine_checks_its_own_products(engine):
    assert engine.products_hold() == 1
