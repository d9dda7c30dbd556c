"""What errors at outputs cost, and matrices solved by it: against PyTorch's own derivatives."""

from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import DEVICES

from llmkg_lab.quantize.solve import curvature, decoder
from llmkg_lab.quantize.solve.coupled import Group, coupled
from llmkg_lab.quantize.solve.curvature import Curvature
from llmkg_lab.quantize.solve.decoder import calibrate
from llmkg_lab.quantize.solve.gptq import factored, gptq
from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama
from llmkg_lab.reference.filled import load_model
from llmkg_lab.scheme import Layout, Scheme

LAYOUT = Layout(4, 32, False)
SCHEME = Scheme.parse("int4-s16-gptq")


@pytest.fixture
def checkpoint(tiny_llama_of_numbers):
    return tiny_llama_of_numbers


def whole(checkpoint, windows: np.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits of transformers' model as it is, and the outputs of its matrices."""
    model, outputs = load_model(checkpoint), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_hook(
                lambda _, __, output, name=name: outputs.__setitem__(f"{name}.weight", output)
            )
    return model(torch.from_numpy(windows)).logits, outputs


@DEVICES
def test_the_mean_square_of_slopes_is_the_fisher_information(checkpoint, device):
    """Of one token: Jᵀ (diag(p) - p pᵀ) J, with J by PyTorch's own jacobian."""
    net = LayerwiseLlama(checkpoint, device)
    state = torch.randn(1, net.table.shape[1], generator=torch.Generator().manual_seed(0))
    state = state.to(device)
    jacobian = torch.autograd.functional.jacobian(net.logits, state)[0, :, 0]  # (vocab, hidden)
    p = net.logits(state)[0].softmax(0)
    exact = jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian
    random = torch.Generator(device).manual_seed(1)
    slopes = curvature._slopes(net, state.expand(1, 40_000, -1), random)[0]
    found = slopes.T @ slopes / len(slopes)
    assert (found - exact).norm() < 0.05 * exact.norm()


@DEVICES
def test_sums_are_those_of_gradients_through_the_whole_model(checkpoint, device, monkeypatch):
    """Σ g gᵀ, where g comes from one backward pass of transformers' model and all counts whole."""
    monkeypatch.setattr(curvature, "CLIP", 1e9)
    monkeypatch.setattr(curvature, "WIDEST", 40)  # some units in several groups
    windows = np.random.default_rng(0).integers(0, 131, (3, 64))
    logits, outputs = whole(checkpoint, windows)
    p, random = logits.detach().softmax(-1), torch.Generator(device).manual_seed(curvature.SEED)
    drawn = torch.cat(
        [
            torch.ones_like(piece).copysign(curvature._signs(piece.to(device), random).cpu())
            for chunk in p.split(curvature.AT_ONCE // 64)
            for piece in chunk.flatten(0, 1).split(curvature.PREDICTED)
        ]
    ).view_as(p)
    behind = p.sqrt() * drawn - p * (p.sqrt() * drawn).sum(-1, keepdim=True)
    gradients = torch.autograd.grad(logits, list(outputs.values()), behind)
    expected = {name: g.flatten(0, 1) for name, g in zip(outputs, gradients, strict=True)}

    with closing(Curvature(checkpoint.form, windows)) as own:
        own.find(LayerwiseLlama(checkpoint, device))
        several = 0
        for unit in checkpoint.form.units():
            if unit.kind in ("table", "head"):
                continue
            stacked = torch.cat([expected[name] for name in unit.parts], 1)
            groups = own.groups(unit)
            several += len(groups) > 1
            rows = np.sort(np.concatenate([group.rows for group in groups]))
            np.testing.assert_array_equal(rows, np.arange(stacked.shape[1]))
            for group in groups:
                part = stacked[:, torch.from_numpy(group.rows)]
                wanted = (part.T @ part).numpy()
                error = np.linalg.norm(group.gram - wanted)
                assert error < 0.03 * np.linalg.norm(wanted)  # bfloat16 where it is fast
        assert several


def test_steep_tokens_count_as_some_usual_ones():
    random = np.random.default_rng(0)
    slopes = torch.from_numpy(random.normal(size=(1, 101, 20))).float()
    slopes[0, 7] *= 1000
    gram = torch.zeros(20, 20)
    whole = [slice(0, 12), slice(0, 8)]
    squares = curvature._add([whole], [gram], [slopes[..., :12], slopes[..., 12:]])
    torch.testing.assert_close(squares, slopes.square().sum(2))
    others = squares.sum() - squares[0, 7]
    expected = float(others + curvature.CLIP * squares.median())
    assert float(gram.trace()) == pytest.approx(expected, rel=1e-3)


def test_tokens_count_by_their_slopes_and_all_text_counts_alike(checkpoint, monkeypatch):
    """However much of it lies on the disk at once."""
    monkeypatch.setattr(curvature, "AT_ONCE", 64)
    windows = np.random.default_rng(0).integers(0, 131, (5, 64))
    found = []
    for kept in (curvature.KEPT, 128):
        monkeypatch.setattr(curvature, "KEPT", kept)
        with closing(Curvature(checkpoint.form, windows)) as own:
            own.find(LayerwiseLlama(checkpoint))
            units = [u for u in checkpoint.form.units() if u.kind not in ("table", "head")]
            found.append([(own.counts(unit), own.groups(unit)) for unit in units])
    for (counts, groups), (again, others) in zip(*found, strict=True):
        assert counts.shape == windows.shape
        assert float(counts.mean()) == pytest.approx(1, rel=1e-5)
        assert float(counts.max() / counts.median()) <= curvature.COUNTED * (1 + 1e-5)
        torch.testing.assert_close(counts, again, rtol=0.05, atol=0.05)  # sums round otherwise
        for group, other in zip(groups, others, strict=True):
            error = np.linalg.norm(group.gram - other.gram)
            assert error < 0.02 * np.linalg.norm(group.gram)


@pytest.mark.slow
def test_tokens_without_slopes_are_as_if_they_were_not_there(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    windows = np.random.default_rng(0).integers(0, 131, (6, 64))
    monkeypatch.setattr(Curvature, "counts", lambda own, _: torch.ones(own._windows.shape))
    few = calibrate(checkpoint, SCHEME, windows[:2])
    for mute in (True, False):
        counts = torch.ones(windows.shape)
        counts[2:] = 0.0 if mute else 1.0
        monkeypatch.setattr(Curvature, "counts", lambda *_, counts=counts: counts)
        monkeypatch.setattr(decoder, "METHOD", f"mute {mute}")
        with closing(Curvature(checkpoint.form, windows[:2])) as same:
            found = calibrate(checkpoint, SCHEME, windows, curvature=same)
        # What is solved first; the others' inputs differ as its roundings do
        name = "model.layers.0.self_attn.q_proj.weight"
        difference = np.abs(found[name].dequantize() - few[name].dequantize())
        assert (np.median(difference) < 1e-6) == mute


def problem(seed: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random matrix, and second moments of its inputs and at its outputs."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(3 * columns, columns)) * random.lognormal(size=columns)
    mixed = random.normal(size=(columns, columns)) / np.sqrt(columns) + np.eye(columns)
    inputs = inputs @ mixed
    few = random.normal(size=(rows // 4, rows))
    slopes = random.normal(size=(4 * rows, rows // 4)) @ few
    slopes += random.normal(size=slopes.shape)
    weight = random.normal(size=(rows, columns)).astype(np.float32)
    return weight, inputs.T @ inputs, (slopes.T @ slopes).astype(np.float32)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_coupled_rows_cost_less_where_outputs_do_not_count_alike(seed):
    weight, hessian, gram = problem(seed, 160, 64)
    ready = factored(hessian, LAYOUT.block_size)

    def cost(found) -> float:
        missing = weight - found.dequantize()
        return float(np.sum((gram @ missing) * (missing @ hessian)))

    order = np.random.default_rng(seed).permutation(160)  # any place in any group
    together = coupled(weight, ready, LAYOUT, [Group(order, gram[np.ix_(order, order)])])
    assert cost(together) < 0.8 * cost(gptq(weight, ready, LAYOUT))
    difference = np.square(weight - together.dequantize(), dtype=np.float64).sum()
    assert together.squared_error == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 3.0])  # 0: outputs that nothing reads
@pytest.mark.parametrize("layout", [LAYOUT, Layout(8, 32, True), Layout(2, 64, False)])
def test_unrelated_outputs_are_solved_as_gptq_solves_them(layout, scale):
    weight, hessian, _ = problem(3, 100, 80)
    ready = factored(hessian, layout.block_size)
    halves = np.array_split(np.random.default_rng(0).permutation(100), 2)
    groups = [Group(half, scale * np.eye(len(half), dtype=np.float32)) for half in halves]
    found, alone = coupled(weight, ready, layout, groups), gptq(weight, ready, layout)
    for name in ("codes", "scales", "zero_points"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
