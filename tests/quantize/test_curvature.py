"""What errors at outputs cost, and matrices solved by it: against PyTorch's own derivatives."""

from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkg_lab.quantize.solve import curvature
from llmkg_lab.quantize.solve.coupled import Group, coupled
from llmkg_lab.quantize.solve.curvature import Curvature
from llmkg_lab.quantize.solve.gptq import factored, gptq
from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama
from llmkg_lab.reference.filled import load_model
from llmkg_lab.scheme import Layout

LAYOUT = Layout(4, 32, False)


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


def test_the_mean_square_of_slopes_is_the_fisher_information(checkpoint):
    """Of one token: Jᵀ (diag(p) - p pᵀ) J, with J by PyTorch's own jacobian."""
    net = LayerwiseLlama(checkpoint)
    state = torch.randn(1, net.table.shape[1], generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(net.logits, state)[0, :, 0]  # (vocab, hidden)
    p = net.logits(state)[0].softmax(0)
    exact = jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian
    random = torch.Generator().manual_seed(1)
    slopes = curvature._slopes(net, state.expand(1, 40_000, -1), random)[0]
    found = slopes.T @ slopes / len(slopes)
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_sums_are_those_of_gradients_through_the_whole_model(checkpoint, monkeypatch):
    """Σ g gᵀ, where g comes from one backward pass of transformers' model and all counts whole."""
    monkeypatch.setattr(curvature, "CLIP", 1e9)
    monkeypatch.setattr(curvature, "WIDEST", 40)  # some units in several groups
    windows = np.random.default_rng(0).integers(0, 131, (3, 64))
    logits, outputs = whole(checkpoint, windows)
    p, random = logits.detach().softmax(-1), torch.Generator().manual_seed(curvature.SEED)
    drawn = torch.cat(
        [
            torch.randn(piece.shape, generator=random)
            for chunk in p.split(curvature.AT_ONCE // 64)
            for piece in chunk.flatten(0, 1).split(curvature.PREDICTED)
        ]
    ).view_as(p)
    behind = p.sqrt() * drawn - p * (p.sqrt() * drawn).sum(-1, keepdim=True)
    gradients = torch.autograd.grad(logits, list(outputs.values()), behind)
    expected = {name: g.flatten(0, 1) for name, g in zip(outputs, gradients, strict=True)}

    with closing(Curvature(checkpoint.form, windows)) as own:
        own.find(LayerwiseLlama(checkpoint))
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


def test_steep_tokens_count_as_some_usual_ones(checkpoint):
    random = np.random.default_rng(0)
    net = LayerwiseLlama(checkpoint)
    unit = next(u for u in checkpoint.form.units() if u.kind == "down")
    width = dict(net.linears(unit.layer))[unit.parts[0]].out_features
    slopes = torch.from_numpy(random.normal(size=(1, 101, width))).float()
    slopes[0, 7] *= 1000
    sums = curvature._Sums(net, unit)
    sums.add([slopes])
    usual = slopes[0].square().sum(1).median()
    others = slopes[0].square().sum() - slopes[0, 7].square().sum()
    trace = np.trace(sums.groups[0].gram)
    assert trace == pytest.approx(float(others + curvature.CLIP * usual), rel=1e-3)


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
