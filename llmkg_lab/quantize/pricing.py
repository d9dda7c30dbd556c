"""What each layout of each matrix costs the whole model, from real measurements.

GPTQ solves every matrix in one layout, and the original model is run with that matrix alone
quantized: its divergence is what the matrix costs. From there, cost goes with the square of the
error that a layout leaves in the matrix's outputs on text that nothing was solved on:

    KL(layout) = KL(SOLVED) · (‖ΔW x‖² + ‖W Δx‖²) / ‖ΔW x‖² of SOLVED

ΔW is taken from rounding to nearest, less what GPTQ gains in SOLVED. Δx is what the runtime loses
when it rounds a product's inputs to 8 bits in the blocks of its weights: next to nothing beside
4-bit weights, nearly all beside 8-bit ones.

Fisher information (g · ΔW x)² from one backward pass (FIT, Zandonati et al., 2022,
arXiv:2210.08502) was tried in place of the measurements: see docs/quantization.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.quantize.blockwise import round_to_nearest
from llmkg_lab.quantize.equivalent import equalized
from llmkg_lab.quantize.gptq import Factored, factored, gptq
from llmkg_lab.quantize.layerwise import LayerwiseLlama
from llmkg_lab.quantize.scheme import Layout
from llmkg_lab.quantize.sensitivity import CANDIDATES, TABLES, Option, stored_bytes
from llmkg_lab.quantize.units import HEAD, TABLE, Unit, units_of

ROWS = 192  # of a matrix, at which the errors of its layouts are compared
MEASURED_TOKENS = 128  # of the last window, on which the model is run for each matrix
CHUNK = 512  # rows of the head
SOLVED = Layout(4, 64, False, half_scales=True)  # the layout that is measured

Progress = Callable[[int, int, str], None]


def price(
    checkpoint: Checkpoint, windows: np.ndarray, progress: Progress
) -> tuple[dict[str, tuple[Option, ...]], dict]:
    """Options by matrix, and a record of what was measured.

    windows: ids (n, tokens) int64; the last one is what is measured on, GPTQ solves on the others.
    """
    units = list(units_of(checkpoint.config))
    layers = checkpoint.config["num_hidden_layers"]
    model = _Model(LayerwiseLlama(equalized(checkpoint)), windows)
    prices: dict[str, list[float]] = {}
    for i in range(layers):
        progress(i, layers + 1, f"sensitivity of layer {i}")
        prices |= model.layer(i, [unit for unit in units if unit.layer == i])
    progress(layers, layers + 1, "sensitivity of the table")
    prices |= model.tables(tied=HEAD not in checkpoint.tensors)
    progress(layers + 1, layers + 1, "sensitivities")
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    options = {unit.name: _options(unit, shapes, prices[unit.name]) for unit in units}
    measured = {"layout": asdict(SOLVED), "tokens": model.tokens, "divergence": model.measured}
    return options, {"measured": measured}


class _Model:
    """The float model, and two texts on their way through it: one to solve on, one to measure."""

    def __init__(self, net: LayerwiseLlama, windows: np.ndarray) -> None:
        self._net = net
        self._ids = windows[-1]
        self._solving = net.embed(windows[:-1])
        self._states = [net.embed(windows[-1:])]  # before each layer, and after the last
        with torch.no_grad():
            for i in range(len(net.layers)):
                self._states.append(net.run(i, self._states[-1]))
            self.tokens = min(MEASURED_TOKENS, windows.shape[1])
            self._original = self._log_probabilities(self._states[-1][:, : self.tokens])
        self.measured: dict[str, float] = {}  # nats a token with the unit alone in SOLVED

    def layer(self, i: int, units: Sequence[Unit]) -> dict[str, list[float]]:
        """What each of CANDIDATES costs for each unit of layer ``i``; layers come in order."""
        hessians, self._solving = self._net.observe(i, self._solving)
        inputs = self._net.inputs(i, self._states[i])
        modules = dict(self._net.linears(i))
        made: dict[int, Factored] = {}  # by the Hessian: matrices that read the same share it
        prices = {}
        for unit in units:
            hessian = hessians[unit.parts[0]]
            if id(hessian) not in made:
                made[id(hessian)] = factored(hessian, SOLVED.block_size)
            weights = [modules[name].weight for name in unit.parts]
            stacked = torch.cat(weights).numpy()
            solved = gptq(stacked, made[id(hessian)], SOLVED).dequantize()
            found = self.measured[unit.name] = self._divergence_of(i, weights, solved)
            rows = np.linspace(0, len(stacked) - 1, min(ROWS, len(stacked))).astype(int)
            ratios = _ratios(inputs[unit.parts[0]][0], stacked[rows], solved[rows])
            prices[unit.name] = [found * ratio for ratio in ratios]
        return prices

    @torch.no_grad()
    def _divergence_of(self, i: int, weights: Sequence[Tensor], solved: np.ndarray) -> float:
        """Where ``weights``, of layer ``i``, hold what is solved; they are put back."""
        kept = [weight.clone() for weight in weights]
        parts = torch.from_numpy(solved).split([len(weight) for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.copy_(part)
        found = self._divergence_from(i, self._states[i][:, : self.tokens])
        for weight, part in zip(weights, kept, strict=True):
            weight.copy_(part)
        return found

    def _divergence_from(self, i: int, states: Tensor) -> float:
        """Where ``states`` go into layer ``i``."""
        for layer in range(i, len(self._net.layers)):
            states = self._net.run(layer, states)
        return _divergence(self._original, self._log_probabilities(states))

    def tables(self, *, tied: bool) -> dict[str, list[float]]:
        """What each of TABLES costs for the table that embeds and for the head."""
        with torch.no_grad():
            embedding = [self._embedding(layout) for layout in TABLES]
            heads = self._heads()
        if tied:
            return {TABLE: [a + b for a, b in zip(embedding, heads, strict=True)]}
        return {TABLE: embedding, HEAD: heads}

    def _embedding(self, layout: Layout) -> float:
        rows = self._net.table.numpy()[self._ids[: self.tokens]]  # (tokens, hidden)
        return self._divergence_from(
            0, torch.from_numpy(round_to_nearest(rows, layout).dequantize())[None]
        )

    def _heads(self) -> list[float]:
        """The head comes last: each layout costs one product."""
        head = self._net.head.weight.numpy()
        hidden = self._net.norm(self._states[-1][:, : self.tokens])
        stored, costs = np.empty_like(head), []
        for layout in TABLES:
            for start in range(0, len(head), CHUNK):  # in the cache: several times as fast
                rows = slice(start, start + CHUNK)
                stored[rows] = round_to_nearest(head[rows], layout).dequantize()
            moved = at_runtime(hidden, layout.block_size) @ torch.from_numpy(stored).T
            costs.append(_divergence(self._original, moved.log_softmax(-1)))
        return costs

    def _log_probabilities(self, states: Tensor) -> Tensor:
        return self._net.logits(states).log_softmax(-1)


def _ratios(x: Tensor, weight: np.ndarray, solved: np.ndarray) -> list[float]:
    """The squared output error of each of CANDIDATES, that of SOLVED's weights being 1.

    x: (tokens, columns); weight and what GPTQ made of it: (rows, columns).
    """

    def energy(inputs: Tensor, matrix: np.ndarray) -> float:
        return float((inputs @ torch.from_numpy(matrix).T).square().sum())

    unit = energy(x, weight - solved)
    if not unit:
        return [0.0] * len(CANDIDATES)
    nearest = {
        layout: energy(x, weight - round_to_nearest(weight, layout).dequantize())
        for layout in CANDIDATES
    }
    sizes = {layout.block_size for layout in CANDIDATES}
    inputs = {size: energy(x - at_runtime(x, size), weight) / unit for size in sizes}
    return [nearest[layout] / nearest[SOLVED] + inputs[layout.block_size] for layout in CANDIDATES]


def at_runtime(x: Tensor, block_size: int) -> Tensor:
    """Inputs (…, columns) as the runtime's kernel rounds them: 8 bits, a scale a block."""
    columns = x.shape[-1]
    blocks = nn.functional.pad(x, (0, -columns % block_size)).unflatten(-1, (-1, block_size))
    scales = blocks.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return ((blocks / scales).round() * scales).flatten(-2)[..., :columns]


def _divergence(original: Tensor, moved: Tensor) -> float:
    """Mean KL of log-probabilities (…, vocab), in nats."""
    found = nn.functional.kl_div(moved, original, reduction="none", log_target=True).sum(-1).mean()
    return max(float(found), 0.0)


def _options(
    unit: Unit, shapes: Mapping[str, tuple[int, ...]], costs: Sequence[float]
) -> tuple[Option, ...]:
    rows = sum(shapes[name][0] for name in unit.parts)
    columns = shapes[unit.parts[0]][1]
    layouts = TABLES if unit.kind in ("table", "head") else CANDIDATES
    return tuple(
        Option(layout, stored_bytes(layout, rows, columns), cost)
        for layout, cost in zip(layouts, costs, strict=True)
    )
