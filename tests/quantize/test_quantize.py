"""Packing and round to nearest, judged by ONNX Runtime's own dequantization."""

import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmkg_lab.graph.layers import Layers
from llmkg_lab.graph.store import Matrix
from llmkg_lab.graph.writer import DataFile, Graph
from llmkg_lab.quantize.blocks.grid import TINY, cover, inverse
from llmkg_lab.quantize.blocks.packing import pack, unpack
from llmkg_lab.quantize.blocks.rounding import round_to_nearest, search
from llmkg_lab.scheme import Layout, Scheme, SchemeError

LAYOUTS = [
    Layout(bits, block_size, symmetric)
    for bits in (2, 4, 8)
    for block_size in (32, 64, 128)
    for symmetric in (True, False)
]
layouts = st.sampled_from(LAYOUTS)
magnitudes = st.sampled_from([1e-38, 1e-30, 1e-3, 1.0, 1e30])


@st.composite
def weights(draw):
    """Matrices of odd shapes and any magnitude, with blocks of zeros and of one sign."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 150)))
    unit = hnp.arrays(np.float32, shape, elements=st.floats(-1, 1, width=32))
    weight = draw(unit) * np.float32(draw(magnitudes))
    return np.abs(weight) if draw(st.booleans()) else weight


@given(st.data(), st.sampled_from([2, 4, 8]), st.integers(1, 40))
def test_packing_round_trips(data, bits, count):
    codes = data.draw(hnp.arrays(np.uint8, (3, count), elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits)
    assert packed.nbytes == 3 * -(-count * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, count), codes)


@settings(deadline=None, max_examples=200)
@given(weights(), layouts)
def test_every_value_is_within_one_step_of_its_weight(weight, layout):
    quantized = round_to_nearest(weight, layout)
    steps = np.repeat(np.abs(quantized.scales), layout.block_size, axis=1)[:, : weight.shape[1]]
    # half a step by rounding, half more where the range's end has no code of its own
    error = np.abs(quantized.dequantize() - weight)
    vanishing = 2**layout.bits * TINY  # blocks whose scale would be subnormal are stored as zeros
    assert np.all(error <= steps * 1.001 + vanishing)
    energy = np.sum(np.square(weight, dtype=np.float64))
    squared_error = np.sum(np.square(error, dtype=np.float64))
    assert quantized.squared_error == pytest.approx(
        squared_error, rel=0.01, abs=1e-8 * energy + 1e-68
    )


@settings(deadline=None)
@given(weights(), layouts)
def test_compiled_rounding_is_numpys_bit_for_bit(weight, layout):
    quantized = round_to_nearest(weight, layout)
    bits, ragged = layout.bits, -weight.shape[1] % layout.block_size
    blocks = np.pad(weight, ((0, 0), (0, ragged))).reshape(len(weight), -1, layout.block_size)
    scales, zero_points = cover(blocks.min(-1), blocks.max(-1), layout)
    codes = np.rint(blocks * inverse(scales)[..., None]) + zero_points[..., None]
    np.testing.assert_array_equal(quantized.scales, scales)
    np.testing.assert_array_equal(
        unpack(quantized.codes, bits, layout.block_size), np.clip(codes, 0, 2**bits - 1)
    )


@pytest.mark.slow
def test_rounding_works_where_no_folder_takes_what_was_compiled():
    code = (
        "import numpy as np\n"
        "from llmkg_lab.quantize.blocks import kernels\n"
        "from llmkg_lab.scheme import Layout\n"
        "from llmkg_lab.quantize.blocks.rounding import round_to_nearest\n"
        "print(round_to_nearest(np.ones((1, 32), np.float32), Layout(8, 32, True)).scales.item())\n"
        "print(kernels.round_blocks.stats.cache_path)"
    )
    nowhere = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    nowhere.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=nowhere, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(-1 / 128), "None"]


@settings(deadline=None)
@given(weights(), layouts)
def test_a_searched_scale_is_never_worse_than_the_range(weight, layout):
    nearest, searched = round_to_nearest(weight, layout), search(weight, layout)
    energy = np.sum(np.square(weight, dtype=np.float64))
    assert searched.squared_error <= nearest.squared_error * 1.0001 + 1e-6 * energy + 1e-68


@settings(deadline=None)
@given(weights(), layouts)
def test_quantizing_twice_changes_nothing(weight, layout):
    once = round_to_nearest(weight, layout).dequantize()
    twice = round_to_nearest(once, layout).dequantize()
    scale = np.abs(weight).max() or 1
    np.testing.assert_allclose(
        twice / scale, once / scale, atol={8: 0.01, 4: 0.08, 2: 0.4}[layout.bits]
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_onnx_runtime_reads_the_same_values(layout, tmp_path):
    """GatherBlockQuantized returns dequantize() bit for bit; MatMulNBits multiplies with it."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(24, 192)).astype(np.float32)
    quantized = round_to_nearest(weight, layout)
    rows, product = run_operators(tmp_path, quantized, rng.normal(size=(3, 192)))
    np.testing.assert_array_equal(rows, quantized.dequantize())
    # accuracy level 4 rounds the activations to 8 bits: some 1 % of a product's size
    expected = np.load(tmp_path / "x.npy") @ quantized.dequantize().T
    assert np.abs(product - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("rows", [1, 17])  # decoding and prefill have kernels of their own
def test_no_kernel_saturates(layout, rows, tmp_path):
    """All weights and activations at the ends of their ranges, where int16 sums would overflow.

    AVX2 adds products of neighbours in int16; a kernel that let them saturate would be a third off.
    """
    quantized = round_to_nearest(np.ones((24, 256), np.float32), layout)
    _, product = run_operators(tmp_path, quantized, np.ones((rows, 256)))
    expected = np.ones((rows, 256)) @ quantized.dequantize().T
    np.testing.assert_allclose(product, expected, rtol=0.01)


def run_operators(folder, quantized, x):
    """A graph of one gather of all rows and one product, over the same stored bytes."""
    layout, (count, blocks) = quantized.layout, quantized.scales.shape
    x = x.astype(np.float32)
    np.save(folder / "x.npy", x)
    with DataFile(folder / "data") as data:
        graph = Graph("operators", data)
        layers = Layers(graph, store=None, scheme=Scheme("int4"))
        start = data.align()
        data.append(quantized.codes)
        nbytes = data.size - start
        shape = quantized.codes.shape
        matrix = Matrix(
            count,
            quantized.columns,
            layout,
            graph.external("codes", np.uint8, shape, start, nbytes),
            graph.external("table", np.uint8, (count, blocks * shape[2]), start, nbytes),
            graph.constant(quantized.scales, "scales"),
            "" if layout.symmetric else graph.constant(quantized.zero_points, "zero_points"),
        )
        ids = graph.input("ids", np.int64, ["batch", "sequence"])
        graph.op("Identity", layers.gather(ids, matrix), output="rows")
        graph.output("rows", np.float32, ["batch", "sequence", quantized.columns])
        layers.product(graph.input("x", np.float32, ["n", x.shape[1]]), matrix, output="product")
        graph.output("product", np.float32, ["n", count])
    (folder / "model.onnx").write_bytes(graph.model().SerializeToString())
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    rows, product = session.run(None, {"ids": np.arange(count)[None], "x": x})
    return rows[0], product


@given(
    st.sampled_from(["int4", "int8"]),
    st.sampled_from(["", "-b64", "-b128"]),
    st.sampled_from(["", "-sym"]),
    st.sampled_from(["", "-s16"]),
    st.sampled_from(["", "-eq", "-mse", "-gptq", "-gptq-dwq"]),
    st.sampled_from(["", "-e4", "-e8", "-e8b128", "-e8b64sym", "-e4sym"]),
)
def test_scheme_names_round_trip(base, block_size, symmetric, scales, method, table):
    name = base + block_size + symmetric + scales + method + table
    name = f"{base}-rtn" if name == base else name
    assert Scheme.parse(name).name == Scheme.parse(name).recipe == name
    assert Scheme.parse(name.upper()) == Scheme.parse(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int3", "unknown scheme 'int3'"),
        ("int4-b48", "block size 48"),
        ("int4-sym-sym", "says symmetric twice"),
        ("int4-b64sym", "unknown option"),
        ("int4-eq-gptq", "says method twice"),
        ("int4-dwq", "dwq trains what gptq solved"),
        ("int4-dyn", "dyn goes with int8 alone"),
        ("int8-dyn-b64", "dyn goes with int8 alone"),
        ("int4-fast", "unknown option 'fast'"),
        ("fp16-b32", "fp16 takes no options"),
        ("", "unknown scheme ''"),
    ],
)
def test_wrong_schemes_are_refused(name, message):
    with pytest.raises(SchemeError, match=message):
        Scheme.parse(name)


def test_layout_counts_bytes():
    for layout in LAYOUTS:
        quantized = round_to_nearest(np.ones((4, 100), np.float32), layout)
        stored = [quantized.codes, quantized.scales, quantized.zero_points]
        assert layout.nbytes(4, 100) == sum(part.nbytes for part in stored if part is not None)
