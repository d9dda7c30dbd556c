"""Mixed layouts end to end on a tiny model: what is priced, chosen, solved, stored and run."""

import os
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from llmkg_lab.base import paths
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion import own_text
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data import texts
from llmkg_lab.graph.builders import build
from llmkg_lab.graph.layers import Layers
from llmkg_lab.graph.store import Plan
from llmkg_lab.graph.writer import DataFile, Graph
from llmkg_lab.quantize.blocks.rounding import round_to_nearest
from llmkg_lab.quantize.budget import allocate as budget
from llmkg_lab.quantize.budget import bounds, compare
from llmkg_lab.quantize.budget import price as sensitivity
from llmkg_lab.quantize.prepare import prepare
from llmkg_lab.quantize.solve import distill
from llmkg_lab.quantize.solve.effort import tokens_of, widest
from llmkg_lab.quantize.solve.equalize import equalized
from llmkg_lab.quantize.solve.text import calibration_text
from llmkg_lab.reference.filled import load_model
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.scheme import Layout, Scheme, SchemeError

WRITE = partial(own_text.write, convert)


@pytest.fixture(scope="module")
def checkpoint(tiny_llama_of_numbers):
    return tiny_llama_of_numbers


@pytest.fixture(scope="module")
def text():
    numbers = np.random.default_rng(5).integers(0, 131, 30000)
    return texts.Text("numbers", "here", "0" * 64, " ".join(map(str, numbers)))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMKG_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(budget, "ACCEPTABLE", np.inf)  # random weights forgive less
        patch.setattr(distill, "STEPS", 12)
        patch.setattr(distill, "KEPT", 4)
        yield


@pytest.fixture(scope="module")
def found(checkpoint, text):
    """What budgets are priced by: the text and the model's own, as ``convert`` reads them."""
    tokens = tokens_of("normal", widest(checkpoint))
    return sensitivity.measure(checkpoint, calibration_text(checkpoint, text, tokens, WRITE))


@pytest.fixture(scope="module")
def sizes(found):
    """A small, a middling and a large budget, in bytes."""
    smallest, largest = budget.frontier(found)[0][0], budget.frontier(found)[-1][0]
    return [int(smallest + share * (largest - smallest)) for share in (0.15, 0.5, 0.9)]


def windows(count: int, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 131, (count, 64))


def logits(checkpoint, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return load_model(checkpoint)(torch.from_numpy(ids)).logits.numpy()


def divergence(original: np.ndarray, moved: np.ndarray) -> float:
    a, b = (torch.from_numpy(x).log_softmax(-1) for x in (original, moved))
    return float((a.exp() * (a - b)).sum(-1).mean())


def scheme_of(nbytes: int, option: str = "") -> Scheme:
    return Scheme.parse(f"budget:{nbytes / 1e6:.6f}MB{option}")


def test_units_are_the_matrices_of_the_graph(checkpoint):
    stored = []

    class Noting(Plan):
        def matrix(self, parts, columns, layout, group):
            stored.append(tuple(name for name, _ in parts))
            return super().matrix(parts, columns, layout, group)

    with DataFile(Path(os.devnull)) as nowhere:
        layers = Layers(Graph("llama", nowhere), Noting(), Scheme.parse("int4-rtn"))
        build(checkpoint.form, layers, "text-generation", None)
    assert [unit.parts for unit in checkpoint.form.units()] == stored


@pytest.mark.slow
def test_what_was_predicted_orders_what_is_measured(checkpoint, text, found, sizes, tmp_path):
    """The divergence of the artifacts as ONNX Runtime runs them, over three budgets."""
    ids = windows(8)
    original = logits(checkpoint, ids)
    predicted, measured = [], []
    for size in sizes:
        artifact = convert(checkpoint, scheme_of(size), tmp_path / f"{size}", calibration=text)
        assert artifact.nbytes <= size
        record = artifact.manifest.calibration.budget
        assert artifact.nbytes <= record.nbytes <= size
        predicted.append(record.predicted_kl)
        measured.append(divergence(original, Decoder(artifact).logits(ids)))
        stored = sensitivity.Sensitivities.load(artifact.folder / "sensitivities.json")
        assert stored == found
    assert predicted[0] > predicted[1] > predicted[2]
    assert measured[0] > measured[1] > measured[2]
    confirmed = found.record["confirmed"]
    assert {entry["kind"] for entry in confirmed} == {"qkv", "o", "gate_up", "down"}
    ratios = [entry["measured"] / entry["predicted"] for entry in confirmed]
    assert 0.2 < np.exp(np.mean(np.log(ratios))) < 5


@pytest.mark.slow
def test_an_artifact_computes_with_the_layouts_that_were_chosen(checkpoint, text, sizes, tmp_path):
    scheme = scheme_of(sizes[1])
    artifact = convert(checkpoint, scheme, tmp_path / "mixed", calibration=text)
    task = "text-generation"
    prepared = prepare(checkpoint, scheme, task, text, write=WRITE)  # from the cache
    assert len({layout.bits for layout in prepared.layouts.values()}) > 1
    model = load_model(prepared.checkpoint).requires_grad_(False)
    parameters = dict(model.named_parameters())
    for name, stored in prepared.solved.items():
        parameters[name].copy_(torch.from_numpy(stored.dequantize()))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        quantized = round_to_nearest(parameters[name].numpy(), prepared.layouts[name])
        parameters[name].copy_(torch.from_numpy(quantized.dequantize()))
    ids = windows(2)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    error = Decoder(artifact).logits(ids) - expected
    assert np.sqrt(np.square(error).mean()) < 0.03 * expected.std()  # activations at 8 bits
    layouts = artifact.manifest.calibration.budget.layouts
    assert {name: layout.bits for name, layout in layouts.items()} == {
        name: layout.bits for name, layout in prepared.layouts.items()
    }


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(checkpoint, text, sizes, tmp_path, monkeypatch):
    made = []
    for name in ("one", "two"):  # each with a cache of its own: everything is computed twice
        monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / f"cache of {name}"))
        made.append(convert(checkpoint, scheme_of(sizes[1]), tmp_path / name, calibration=text))
    assert made[0].manifest.files == made[1].manifest.files


@pytest.mark.slow
def test_distilled_scales_diverge_less_at_the_same_size(
    checkpoint, text, sizes, tmp_path, monkeypatch
):
    monkeypatch.setattr(distill, "RATE", 0.01)  # a dozen steps of a tiny model
    ids = windows(8)
    original = logits(checkpoint, ids)
    plain, distilled = (
        convert(checkpoint, scheme_of(sizes[0], option), tmp_path / f"x{option}", calibration=text)
        for option in ("", "-dwq")
    )
    assert plain.nbytes == distilled.nbytes
    before, after = (divergence(original, Decoder(a).logits(ids)) for a in (plain, distilled))
    assert after < before
    record = distilled.manifest.calibration.distillation
    assert (record.steps, len(record.divergence)) == (12, 12)
    states = sorted((paths.cache() / "distilled").iterdir(), key=lambda path: path.stat().st_mtime)
    assert len(states) == 3
    states[-1].unlink()  # as if cut off after eight steps
    again = convert(checkpoint, scheme_of(sizes[0], "-dwq"), tmp_path / "again", calibration=text)
    assert again.manifest.files == distilled.manifest.files


def test_a_budget_needs_a_llama(minilm_folder, tmp_path):
    with pytest.raises(SchemeError, match=r"budget-15mb: .* is not a decoder of the Llama form"):
        convert(open_checkpoint(minilm_folder), Scheme.parse("budget:15MB"), tmp_path / "out")


@pytest.mark.slow
def test_an_impossible_budget_is_refused_from_the_shapes_alone(checkpoint, found, tmp_path):
    least = bounds.least_bytes(checkpoint)
    assert least == budget.frontier(found)[0][0]  # as it is once sensitivities are measured
    too_small = scheme_of(int(0.9 * least))
    told, start = [], time.perf_counter()
    with pytest.raises(SchemeError, match="the smallest mix takes") as caught:
        convert(checkpoint, too_small, tmp_path / "out", progress=told.append)
    assert time.perf_counter() - start < 2
    assert told == []  # nothing was begun
    sound = float(re.search(r"budget:([\d.]+)MB", caught.value.hint)[1])
    assert least < 1e6 * sound
    bounds.check(checkpoint, scheme_of(int(1.01 * least)))


@pytest.mark.slow
def test_a_mix_never_loses_to_a_uniform_layout_of_its_size(checkpoint, found, sizes):
    """Measured, not predicted: a mix that is predicted to be good and is bad is not taken."""
    even, windows_ = equalized(checkpoint), windows(8)
    scheme = scheme_of(sizes[2])
    uniform = compare.uniform(found, sizes[2])
    assert len(uniform) == compare.UNIFORM
    predicted = []
    for layouts in uniform:
        assert len(set(layouts.values())) <= 2  # the matrices', the tables'
        priced = [
            next(o for o in options if o.layout == layouts[name])
            for name, options in found.matrices.items()
        ]
        assert found.fixed_bytes + sum(o.nbytes for o in priced) <= sizes[2]
        predicted.append(sum(o.kl for o in priced))
    assert predicted == sorted(predicted)
    smallest = {n: min(os_, key=lambda o: o.nbytes).layout for n, os_ in found.matrices.items()}
    flattered = budget.Allocation(smallest, sizes[0], 0.0, 0.0, None)  # predicted: no loss at all
    others = compare.simpler(found, sizes[2])
    assert [others[f"uniform {i}"] for i in (1, 2, 3)] == uniform
    layouts, kl = compare.better(even, scheme, flattered, others, windows_, print)
    assert set(kl) <= {"mix", *others}
    best = min(kl, key=kl.get)
    assert layouts == others[best]
    assert kl[best] < 0.5 * kl["mix"]
    chosen = budget.allocate(found, sizes[1])
    layouts, kl = compare.better(even, scheme, chosen, {"least": smallest}, windows_, print)
    assert layouts == chosen.layouts
    assert kl["mix"] < kl["least"]
    same = {"same": chosen.layouts}
    assert compare.better(even, scheme, chosen, same, windows_, print) == (layouts, {})
    assert compare.simpler(found, 1000) == {}


@pytest.mark.slow
def test_two_widths_are_those_matrices_raised_that_gain_most(found, sizes):
    """One narrow layout; what is left of the budget would raise no other matrix that gains."""
    for nbytes in sizes[1:]:
        mixes = compare.two_widths(found, nbytes)
        assert 1 <= len(mixes) <= compare.TWO_WIDTHS
        for layouts in mixes:
            narrow = {own for own in layouts.values() if own != compare.WIDE}
            assert len(narrow) <= 1
            chosen = {n: option(found, n, layout) for n, layout in layouts.items()}
            spent = found.fixed_bytes + sum(own.nbytes for own in chosen.values())
            assert spent <= nbytes
            for name in (n for n, layout in layouts.items() if layout in narrow):
                wide, own = option(found, name, compare.WIDE), chosen[name]
                assert wide.kl >= own.kl or spent + wide.nbytes - own.nbytes > nbytes


def option(found: sensitivity.Sensitivities, name: str, layout: Layout):
    return next(own for own in found.matrices[name] if own.layout == layout)
