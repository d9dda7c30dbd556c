"""What quantizing a matrix does to the model's predictions, to second order.

The divergence that a small error of a layer's output causes is half its square, weighed by the
Fisher information: the mean square of the gradient of log p(y), the y drawn from the model itself
(Amari, 1998; as a measure for quantization in FIT, Zandonati et al., 2022, arXiv:2210.08502).
So one pass forward and one back over some text price every layout of every matrix:

    KL of a token ≈ ½ Σ over output rows r of (g_r · (ΔW x)_r)²

with g the gradient at the matrix's output and x its input at that token, on text that no matrix
was solved on. Rounding to nearest prices each layout, on some of the rows; GPTQ prices one of
them, and what it gains there is taken for what it gains at all.

The estimate takes an error at one token for unrelated to that at the next. How far that is
wrong depends on what the matrix does, so a few matrices of each kind are quantized for real:
the ratio of what is then measured to what was predicted corrects all of that kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from llmkg_lab.base.progress import Counter, Progress
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.models.base import Form, Unit
from llmkg_lab.quantize.blocks.rounding import Quantized, round_to_nearest
from llmkg_lab.quantize.budget.options import CANDIDATES, TABLES, Option, stored_bytes
from llmkg_lab.quantize.solve.equalize import equalized
from llmkg_lab.quantize.solve.gptq import Factored, factored, gptq
from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama, Passed
from llmkg_lab.scheme import Layout

PRICED = 2  # windows, the last ones; the others are what GPTQ solves for
ROWS = 192  # of a matrix that price its layouts
HEAD_TOKENS = 256  # on which the head is priced
CONFIRMED_TOKENS = 256  # on which estimates are confirmed
CHUNK = 512  # rows of the head
DEPTHS = (0.1, 0.5, 0.9)  # of the layers whose matrices confirm the estimate
SEED = 0  # of the tokens drawn from the model

SOLVED = Layout(4, 64, False, half_scales=True)  # the layout that GPTQ prices


def estimate(
    checkpoint: Checkpoint, windows: np.ndarray, progress: Progress
) -> tuple[dict[str, tuple[Option, ...]], dict]:
    """Options by matrix, and a record of what was confirmed. windows: ids (n, tokens) int64."""
    units, layers = list(checkpoint.form.units()), checkpoint.form.layers
    confirming = {int(depth * layers) for depth in DEPTHS}
    steps = Counter(progress, "sensitivities", "steps", 2 * layers + 2 + len(confirming))
    forward = _Forward(LayerwiseLlama(equalized(checkpoint)), windows, confirming)
    for i in range(layers):
        forward.layer(i, [unit for unit in units if unit.layer == i])
        steps.advance()
    backward = _Backward(forward)
    steps.advance()
    prices: dict[str, list[float]] = {}
    for i in reversed(range(layers)):
        prices |= backward.layer(i, [unit for unit in units if unit.layer == i])
        steps.advance()
    prices |= backward.tables(checkpoint.form)
    steps.advance()
    confirmed = []
    for i in sorted(confirming):
        confirmed += forward.confirm([unit for unit in units if unit.layer == i], prices)
        steps.advance()
    correction = _correction(confirmed)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    options = {
        unit.name: _options(unit, shapes, prices[unit.name], correction.get(unit.kind, 1.0))
        for unit in units
    }
    return options, {"confirmed": confirmed, "correction": correction}


def _rows(count: int) -> np.ndarray:
    """The rows that price a matrix of so many, at even distances."""
    return np.linspace(0, count - 1, min(ROWS, count)).astype(int)


class _Forward:
    """Text on its way through the float model, and matrices solved for it."""

    def __init__(self, net: LayerwiseLlama, windows: np.ndarray, confirming: set[int]) -> None:
        self.net = net
        self.ids = torch.from_numpy(windows[-PRICED:])
        self.states = [net.embed(windows[-PRICED:])]  # before each layer, and after the last
        self.solved: dict[str, np.ndarray] = {}  # what GPTQ leaves on some rows, by unit
        self._solving = net.embed(windows[:-PRICED])
        self._confirming = confirming
        self._whole: dict[str, list[Quantized]] = {}  # the confirming units' parts

    def layer(self, i: int, units: Sequence[Unit]) -> None:
        """Through layer ``i``, whose matrices are solved on the way."""
        with torch.no_grad():
            outputs = [self.net.run(i, window) for window in self.states[-1].split(1)]
        self.states.append(torch.cat(outputs))
        hessians, self._solving = self.net.observe(i, self._solving)
        modules = dict(self.net.linears(i))
        made: dict[int, Factored] = {}  # by the Hessian: matrices that read the same share it
        for unit in units:
            hessian = hessians[unit.parts[0]]
            if id(hessian) not in made:
                made[id(hessian)] = factored(hessian, SOLVED.block_size)
            parts = [modules[name].weight.numpy() for name in unit.parts]
            if i in self._confirming:
                whole = [gptq(part, made[id(hessian)], SOLVED) for part in parts]
                self._whole[unit.name] = whole
                rows = _rows(sum(map(len, parts)))
                error = np.concatenate(parts) - np.concatenate([q.dequantize() for q in whole])
                self.solved[unit.name] = error[rows]
            else:
                sample = np.concatenate(parts)
                sample = sample[_rows(len(sample))]
                error = sample - gptq(sample, made[id(hessian)], SOLVED).dequantize()
                self.solved[unit.name] = error

    def confirm(self, units: Sequence[Unit], prices: Mapping[str, Sequence[float]]) -> list[dict]:
        """Predicted and measured divergence where each unit alone is quantized."""
        with torch.no_grad():
            original = self.net.logits(self.states[-1][:1, :CONFIRMED_TOKENS]).log_softmax(-1)
        return [
            {
                "name": unit.name,
                "kind": unit.kind,
                "layout": asdict(SOLVED),
                "predicted": prices[unit.name][CANDIDATES.index(SOLVED)],
                "measured": self._measure(unit, original),
            }
            for unit in units
        ]

    @torch.no_grad()
    def _measure(self, unit: Unit, original: Tensor) -> float:
        """original: log-probabilities (1, tokens, vocab) of the float model."""
        states = self.states[unit.layer][:1, : original.shape[1]]
        modules = dict(self.net.linears(unit.layer))
        kept = {name: modules[name].weight.clone() for name in unit.parts}
        for name, stored in zip(unit.parts, self._whole[unit.name], strict=True):
            modules[name].weight.copy_(torch.from_numpy(stored.dequantize()))
        for i in range(unit.layer, len(self.net.layers)):
            states = self.net.run(i, states)
        for name, weight in kept.items():
            modules[name].weight.copy_(weight)
        moved = self.net.logits(states).log_softmax(-1)
        return _divergence(original, moved)


class _Backward:
    """The gradient of log p(y), y drawn from the model, on its way back through the layers."""

    def __init__(self, forward: _Forward) -> None:
        self._net = forward.net
        self._ids = forward.ids
        self._states = forward.states
        self._solved = forward.solved
        random = torch.Generator().manual_seed(SEED)
        gradients = []
        for window in self._states[-1].split(1):
            x = window.clone().requires_grad_()
            logits = self._net.logits(x)[0]  # (tokens, vocab)
            drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=random)[:, 0]
            loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
            gradients += torch.autograd.grad(loss, x)
        self._gradient = torch.cat(gradients)  # at what goes into the layer at hand

    def layer(self, i: int, units: Sequence[Unit]) -> dict[str, list[float]]:
        """Price the layouts of a layer's units, and move the gradient before the layer."""
        modules = dict(self._net.linears(i))
        passed: dict[str, list[Passed]] = {name: [] for name in modules}
        for window, state in enumerate(self._states[i].split(1)):
            own = slice(window, window + 1)
            self._gradient[own], found = self._net.back(i, state, self._gradient[own])
            for name, part in found.items():
                passed[name].append(part)
        return {
            unit.name: _price(
                torch.cat([part.inputs[0] for part in passed[unit.parts[0]]]),
                torch.cat([modules[name].weight for name in unit.parts]),
                torch.cat(
                    [torch.cat([part.gradient[0] for part in passed[name]]) for name in unit.parts],
                    1,
                ),
                torch.from_numpy(self._solved[unit.name]),
            )
            for unit in units
        }

    def tables(self, form: Form) -> dict[str, list[float]]:
        """Price the layouts of the table that embeds and of the head."""
        table, head = self._net.table.numpy(), self._net.head.weight.numpy()
        embedding = [self._embedding(table, layout) for layout in TABLES]
        heads = self._heads(head)
        if form.tied:
            return {form.table: [a + b for a, b in zip(embedding, heads, strict=True)]}
        return {form.table: embedding, form.head: heads}

    def _embedding(self, table: np.ndarray, layout: Layout) -> float:
        rows, place = np.unique(self._ids.numpy().ravel(), return_inverse=True)
        error = round_to_nearest(table[rows], layout).dequantize() - table[rows]
        moved = torch.from_numpy(error)[torch.from_numpy(place)]  # (tokens, hidden)
        return float((self._gradient.flatten(0, 1) * moved).square().sum(1).mean() / 2)

    @torch.no_grad()
    def _heads(self, head: np.ndarray) -> list[float]:
        """The real divergence: the head comes last, so that measuring it costs one product."""
        states = self._states[-1].flatten(0, 1)[:: max(1, self._ids.numel() // HEAD_TOKENS)]
        hidden = self._net.norm(states)
        original = (hidden @ torch.from_numpy(head).T).log_softmax(1)
        stored, costs = np.empty_like(head), []
        for layout in TABLES:
            for start in range(0, len(head), CHUNK):  # in the cache: several times as fast
                rows = slice(start, start + CHUNK)
                stored[rows] = round_to_nearest(head[rows], layout).dequantize()
            moved = (hidden @ torch.from_numpy(stored).T).log_softmax(1)
            costs.append(_divergence(original, moved))
        return costs


def _divergence(original: Tensor, moved: Tensor) -> float:
    """Mean KL of log-probabilities (…, vocab), in nats."""
    return float(
        nn.functional.kl_div(moved, original, reduction="none", log_target=True).sum(-1).mean()
    )


def _price(x: Tensor, weight: Tensor, gradient: Tensor, solved: Tensor) -> list[float]:
    """The cost of each of CANDIDATES for a matrix.

    x: (tokens, columns); weight: (rows, columns); gradient: (tokens, rows); solved: what GPTQ
    leaves of SOLVED on some of the rows, (chosen, columns).
    """
    rows = _rows(len(weight))
    sample, behind = weight[rows].numpy(), gradient[:, rows]

    def cost(error: Tensor) -> float:
        moved = behind * (x @ error.T)  # (tokens, chosen)
        return float(moved.square().sum(1).mean() / 2 * len(weight) / len(rows))

    nearest = {
        layout: cost(torch.from_numpy(sample - round_to_nearest(sample, layout).dequantize()))
        for layout in CANDIDATES
    }
    gain = cost(solved) / nearest[SOLVED] if nearest[SOLVED] else 1.0
    return [gain * found for found in nearest.values()]


def _correction(confirmed: Sequence[Mapping]) -> dict[str, float]:
    """The geometric mean of what was measured over what was predicted, by kind."""
    ratios: dict[str, list[float]] = {}
    for entry in confirmed:
        if entry["predicted"] > 0 and entry["measured"] > 0:
            ratio = np.log(entry["measured"] / entry["predicted"])
            ratios.setdefault(entry["kind"], []).append(ratio)
    return {kind: float(np.exp(np.mean(logs))) for kind, logs in ratios.items()}


def _options(
    unit: Unit, shapes: Mapping[str, tuple[int, ...]], costs: Sequence[float], correction: float
) -> tuple[Option, ...]:
    rows = sum(shapes[name][0] for name in unit.parts)
    columns = shapes[unit.parts[0]][1]
    layouts = TABLES if unit.kind in ("table", "head") else CANDIDATES
    return tuple(
        Option(layout, stored_bytes(layout, rows, columns), cost * correction)
        for layout, cost in zip(layouts, costs, strict=True)
    )
