"""Calibrated quantization: the solvers, by the outputs of layers and of whole models."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkg_lab.base import machine, paths
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.checkpoint.views import Rescaled
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data import texts
from llmkg_lab.quantize.blocks.grid import cover, inverse, search_grid
from llmkg_lab.quantize.blocks.kernels import errors_on_grids
from llmkg_lab.quantize.blocks.rounding import round_to_nearest
from llmkg_lab.quantize.solve.curvature import Curvature
from llmkg_lab.quantize.solve.decoder import calibrate
from llmkg_lab.quantize.solve.equalize import equalized, random_rescaling
from llmkg_lab.quantize.solve.gptq import factored, gptq
from llmkg_lab.reference.filled import load_model
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.scheme import Layout, Scheme, SchemeError

LAYOUTS = [Layout(bits, size, sym) for bits in (4, 8) for size in (32, 64) for sym in (True, False)]


def correlated(rows: int, columns: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """A random weight (rows, columns), and inputs (samples, columns) of a few strong directions."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(columns // 4, columns)) * random.lognormal(size=columns)
    inputs = random.normal(size=(samples, columns // 4)) @ directions
    inputs += 0.1 * random.normal(size=inputs.shape)
    return random.normal(size=(rows, columns)).astype(np.float32), inputs.astype(np.float32)


@pytest.mark.slow
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
    assert np.all(searched <= error(*cover(blocks.min(-1), blocks.max(-1), layout)) * 1.0001)


@settings(deadline=None)
@given(st.sampled_from(LAYOUTS), st.integers(0, 2**32 - 1), st.sampled_from([1e-38, 1, 1e30]))
def test_grids_are_compared_by_the_error_that_numpy_finds(layout, seed, size):
    """To the bit where a sum's order is the same; and what overflows is no grid's error."""
    random = np.random.default_rng(seed)
    blocks = (random.standard_t(3, size=(5, layout.block_size)) * size).astype(np.float32)
    blocks[0] = 0
    scales, zeros = (np.stack([c, c]) for c in cover(blocks.min(-1), blocks.max(-1), layout))
    scales[1] *= np.float32(0.8)
    importance = random.lognormal(size=layout.block_size).astype(np.float32)
    errors, highest = np.empty_like(scales), 2**layout.bits - 1
    errors_on_grids(blocks, scales, inverse(scales), zeros, highest, importance, errors)
    exact = blocks * inverse(scales)[..., None]
    codes = np.clip(np.rint(exact), -zeros[..., None], highest - zeros[..., None])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = (np.square(exact - codes) * importance).sum(-1) * np.square(scales)
    np.testing.assert_array_equal(errors, expected)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.sampled_from(LAYOUTS), st.integers(0, 2**32 - 1))
def test_refining_never_raises_the_error(layout, seed):
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(90, 70)) * random.lognormal(size=70)
    weight = random.standard_t(3, size=(5, 70)).astype(np.float32)
    ready = factored(inputs.T @ inputs, layout.block_size)

    def error(rounds: int) -> float:
        missing = weight - gptq(weight, ready, layout, rounds).dequantize()
        return float(np.einsum("rc,cd,rd->", missing, ready.hessian[:70, :70], missing))

    errors = [error(rounds) for rounds in range(3)]
    assert errors[1] <= errors[0] * 1.001
    assert errors[2] <= errors[1] * 1.001


def test_gptq_takes_inputs_that_are_all_zero():
    weight, _ = correlated(4, 64, 1)
    solved = gptq(weight, np.zeros((64, 64)), Layout(4, 32, False))
    assert np.abs(solved.dequantize() - weight).max() < 0.5


@pytest.fixture(scope="module")
def checkpoint(tiny_llama_of_numbers):
    return tiny_llama_of_numbers


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


def random_windows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 131, (count, 64))


def logits(checkpoint, windows: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return load_model(checkpoint)(torch.from_numpy(windows)).logits.numpy()


@pytest.mark.parametrize("transform", [lambda c: random_rescaling(c, 0.3, 1), equalized])
def test_rescaled_channels_leave_the_logits_alone(checkpoint, transform):
    rescaled, windows = transform(checkpoint), random_windows(2, 0)
    expected = logits(checkpoint, windows)
    assert np.abs(logits(rescaled, windows) - expected).max() < 1e-4 * np.abs(expected).max()
    changed = "model.layers.0.self_attn.v_proj.weight"
    assert np.abs(rescaled.read(changed) / checkpoint.read(changed) - 1).max() > 0.1
    np.testing.assert_array_equal(rescaled.read(changed, slice(3, 7)), rescaled.read(changed)[3:7])
    assert rescaled.fingerprint() != checkpoint.fingerprint()


def test_equalizing_undoes_any_rescaling(checkpoint):
    plain, again = equalized(checkpoint), equalized(random_rescaling(checkpoint, 0.3, 1))
    assert isinstance(again, Rescaled)
    for layer in range(2):
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{part}.weight"
            ratio = again.read(name) / plain.read(name)
            assert np.ptp(ratio) < 1e-4  # the same but for one factor a matrix


@pytest.mark.slow
def test_calibration_resumes_and_repeats_to_the_bit(checkpoint, monkeypatch):
    scheme, windows = Scheme.parse("int4-gptq"), random_windows(4, 1)
    first = calibrate(checkpoint, scheme, windows)
    layers = sorted((paths.cache() / "calibrated").iterdir())
    assert len(layers) == 2
    layers[0].unlink()  # as if cut off: one of the two layers is solved again
    second = calibrate(checkpoint, scheme, windows)
    assert set(first) == set(second)
    assert len(first) == 14
    for name, one in first.items():
        np.testing.assert_array_equal(one.codes, second[name].codes)
        np.testing.assert_array_equal(one.scales, second[name].scales)
    monkeypatch.setattr(machine, "instruction_sets", lambda: ("another processor's",))
    calibrate(checkpoint, scheme, windows)
    assert len(list((paths.cache() / "calibrated").iterdir())) == 4  # its products differ


@pytest.mark.slow
def test_a_calibrated_artifact_computes_with_the_solved_weights(checkpoint, tmp_path):
    """Bytes are the same twice; logits are nearer to the model's than by round to nearest."""
    random = np.random.default_rng(5)
    text = texts.Text(
        "digits", "here", "0" * 64, " ".join(map(str, random.integers(0, 131, 20000)))
    )
    one, two = (
        convert(checkpoint, Scheme.parse("int4-s16-gptq"), tmp_path / name, calibration=text)
        for name in ("one", "two")
    )
    assert one.manifest.files == two.manifest.files
    record = one.manifest.calibration
    assert record.tokens == 2 * record.own_tokens + 300 * (record.tokens // 300 % 2)  # by turns
    plain = convert(checkpoint, Scheme.parse("int4-s16"), tmp_path / "plain")
    windows = random_windows(4, 2)
    expected = logits(checkpoint, windows)
    errors = [np.square(Decoder(a).logits(windows) - expected).mean() for a in (one, plain)]
    assert errors[0] < 0.8 * errors[1]
    stored = json.loads((one.folder / "manifest.json").read_text())["scheme"]
    assert (stored["method"], stored["half_scales"]) == ("gptq", True)


@pytest.mark.slow
def test_an_equalized_artifact_forgives_a_rescaling(checkpoint, tmp_path):
    """Round to nearest suffers from uneven channels; with them equalized it does not see them."""
    windows = random_windows(4, 3)
    expected, uneven = logits(checkpoint, windows), random_rescaling(checkpoint, 0.8, 1)

    def error(name: str) -> float:
        artifact = convert(uneven, Scheme.parse(name), tmp_path / name)
        return float(np.square(Decoder(artifact).logits(windows) - expected).mean())

    assert error("int4-eq") < 0.7 * error("int4-rtn")


def test_what_cannot_be_calibrated_is_refused(minilm_folder, tmp_path):
    with pytest.raises(SchemeError, match="not a decoder of the Llama form"):
        convert(open_checkpoint(minilm_folder), Scheme.parse("int4-eq"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_text(monkeypatch):
    def load(corpora):
        raise texts.TextError("no text is here", "install one")

    monkeypatch.setattr(texts, "load", load)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4-s16-gptq", "budget:0.09MB"])
def test_where_no_text_is_at_hand_the_model_writes_it(
    checkpoint, no_text, tmp_path, name, monkeypatch
):
    sent, begin = [], Curvature.__init__

    def noted(own, form, windows):
        sent.append(windows.size)
        begin(own, form, windows)

    monkeypatch.setattr(Curvature, "__init__", noted)
    made = convert(checkpoint, Scheme.parse(name), tmp_path / "made")
    record = made.manifest.calibration
    assert sent[-1] == record.tokens  # all of it says how outputs count
    assert record.method == "gptq"
    assert not made.manifest.warning
    assert 1000 < record.tokens == record.own_tokens
    assert (record.corpus, record.effort) == (None, "normal")
    plain = convert(checkpoint, Scheme.parse("int4-s16"), tmp_path / "plain")
    windows = random_windows(4, 2)
    expected = logits(checkpoint, windows)
    errors = [np.square(Decoder(a).logits(windows) - expected).mean() for a in (made, plain)]
    assert errors[0] < 0.9 * errors[1]


def test_a_text_that_is_too_short_is_refused(checkpoint, tmp_path):
    short = texts.Text("short", "here", "0" * 64, "1 2 3")
    with pytest.raises(texts.TextError, match="tokens"):
        convert(checkpoint, Scheme.parse("int4-gptq"), tmp_path / "out", calibration=short)
