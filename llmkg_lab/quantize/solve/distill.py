"""Scales and norm gains trained on the whole model's predictions, the codes held.

What a layer's own solver cannot see is what its errors do to the logits together with those of
all others. With codes and zero points held, a quantized matrix is linear in its scales, so they
are trained by plain gradients, and the gains of the norms with them, on the divergence from the
original's predictions (as mlx-lm's DWQ does; Hinton et al., 2015, arXiv:1503.02531). The file
stays as large as it was, to the byte.

Only one layer's activations and gradients are in memory at a time: the layer is run again on
the way back.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from llmkg_lab.base import cache
from llmkg_lab.base.progress import Counter, Progress
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.quantize.blocks.grid import storable
from llmkg_lab.quantize.blocks.packing import unpack
from llmkg_lab.quantize.blocks.rounding import Quantized, round_to_nearest
from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama
from llmkg_lab.scheme import Layout

METHOD = 1  # counted up when the same inputs would give other scales: cached ones are then void
STEPS = 32  # of a window each
KEPT = 8  # steps from one state in the cache to the next
RATE = 1e-3  # of a parameter's own size a step, at the beginning; it falls to zero
DECAYS = (0.9, 0.95)  # of Adam's moments: short, for few steps


@dataclass
class State:
    """Parameters relative to where they began, and the moments of Adam (Kingma and Ba, 2014)."""

    step: int = 0
    factors: dict[str, Tensor] = field(default_factory=dict)  # 1 where nothing has changed
    means: dict[str, Tensor] = field(default_factory=dict)
    squares: dict[str, Tensor] = field(default_factory=dict)

    def arrays(self) -> cache.Arrays:
        """All of it, for the cache."""
        parts = {"factor": self.factors, "mean": self.means, "square": self.squares}
        return {
            f"{name}:{part}": values.numpy()
            for part, tensors in parts.items()
            for name, values in tensors.items()
        }

    def load(self, step: int, arrays: cache.Arrays) -> None:
        """Go on from what ``arrays`` gave behind ``step`` steps."""
        self.step = step
        for key, values in arrays.items():
            name, _, part = key.rpartition(":")
            if name:
                parts = {"factor": self.factors, "mean": self.means, "square": self.squares}
                parts[part][name] = torch.from_numpy(values)

    def update(self, name: str, gradient: Tensor, rate: float) -> Tensor:
        """One step against ``gradient``, of the loss by the factor. Returns the new factors."""
        if name not in self.factors:
            self.factors[name] = torch.ones_like(gradient)
            self.means[name] = torch.zeros_like(gradient)
            self.squares[name] = torch.zeros_like(gradient)
        mean, square = self.means[name], self.squares[name]
        mean.lerp_(gradient, 1 - DECAYS[0])
        square.lerp_(gradient.square(), 1 - DECAYS[1])
        bias = [1 - decay ** (self.step + 1) for decay in DECAYS]
        move = (mean / bias[0]) / ((square / bias[1]).sqrt() + 1e-12)
        return self.factors[name].sub_(move, alpha=rate)


class Matrix:
    """A quantized matrix as a function of the factors of its scales."""

    def __init__(self, stored: Quantized) -> None:
        layout, (rows, blocks) = stored.layout, stored.scales.shape
        codes = unpack(stored.codes, layout.bits, layout.block_size).astype(np.int16)
        middle = 2 ** (layout.bits - 1)
        if stored.zero_points is None:
            zero_points = np.full((rows, blocks), middle, np.int16)
        else:
            zero_points = unpack(stored.zero_points, layout.bits, blocks).astype(np.int16)
        self.stored = stored
        self._steps = torch.from_numpy(codes - zero_points[..., None]).to(torch.int16)
        self._scales = torch.from_numpy(stored.scales)

    def weight(self, factors: Tensor | None) -> Tensor:
        """float32 (rows, columns)."""
        scales = self._scales if factors is None else self._scales * factors
        values = self._steps * scales[..., None]
        return values.flatten(1)[:, : self.stored.columns]

    def gradient(self, by_weight: Tensor) -> Tensor:
        """The loss's gradient by the factors, (rows, blocks), from that by the weight."""
        padding = self._steps.shape[1] * self._steps.shape[2] - self.stored.columns
        padded = nn.functional.pad(by_weight, (0, padding)).view(self._steps.shape)
        return (padded * self._steps).sum(2) * self._scales

    def result(self, factors: Tensor | None) -> Quantized:
        """The matrix as the file will hold it."""
        if factors is None:
            return self.stored
        scales = (self._scales * factors).numpy()
        return replace(self.stored, scales=storable(scales, self.stored.layout))


class Student:
    """The quantized model in training.

    table, head: as stored, float32 (vocab, hidden); they are not trained.
    """

    def __init__(
        self,
        net: LayerwiseLlama,
        solved: Mapping[str, Quantized],
        table: np.ndarray,
        head: np.ndarray,
        state: State,
    ) -> None:
        self._net = net
        self._matrices = {name: Matrix(stored) for name, stored in solved.items()}
        self._table, self._head = torch.from_numpy(table), torch.from_numpy(head)
        self._gains = {name: norm.weight.clone() for name, norm in net.norms()}
        self.state = state
        for name, norm in net.norms():
            norm.weight.copy_(self._gains[name] * state.factors.get(name, 1))
        for i in range(len(net.layers)):
            for name, linear in net.linears(i):
                linear.weight.copy_(self._matrices[name].weight(state.factors.get(name)))

    def step(self, ids: Tensor, goal: Tensor, rate: float) -> float:
        """One step on a window: ids (1, tokens), goal: log-probabilities (tokens, vocab).

        Returns the divergence before the step, in nats per token.
        """
        states = [self._table[ids]]
        with torch.no_grad():
            for i in range(len(self._net.layers)):
                states.append(self._net.run(i, states[-1]))
        loss, gradient = self._predict(states[-1], goal, rate)
        for i in reversed(range(len(self._net.layers))):
            gradient = self._layer(i, states[i], gradient, rate)
        self.state.step += 1
        return loss

    def results(self) -> tuple[dict[str, Quantized], dict[str, np.ndarray]]:
        """Matrices and gains of norms, by checkpoint name."""
        factors = self.state.factors
        return (
            {name: matrix.result(factors.get(name)) for name, matrix in self._matrices.items()},
            {name: (gain * factors.get(name, 1)).numpy() for name, gain in self._gains.items()},
        )

    def _predict(self, x: Tensor, goal: Tensor, rate: float) -> tuple[float, Tensor]:
        norm = self._net.norm
        x = x.requires_grad_()
        norm.weight.requires_grad_()
        predicted = (norm(x)[0] @ self._head.T).log_softmax(1)
        loss = nn.functional.kl_div(predicted, goal, reduction="batchmean", log_target=True)
        before, by_gain = torch.autograd.grad(loss, [x, norm.weight])
        self._move_gain("model.norm.weight", norm, by_gain, rate)
        return float(loss.detach()), before

    def _layer(self, i: int, x: Tensor, arriving: Tensor, rate: float) -> Tensor:
        """Train layer ``i``; the gradient behind it -> the gradient before it."""
        linears, norms = dict(self._net.linears(i)), dict(self._net.norms(i))
        weights = [
            module.weight.requires_grad_() for module in (*linears.values(), *norms.values())
        ]
        x = x.requires_grad_()
        out = self._net.run(i, x)
        before, *found = torch.autograd.grad(out, [x, *weights], arriving)
        for (name, linear), by_weight in zip(linears.items(), found, strict=False):
            matrix = self._matrices[name]
            factors = self.state.update(name, matrix.gradient(by_weight), rate)
            linear.weight.requires_grad_(False).copy_(matrix.weight(factors))
        for (name, norm), by_gain in zip(norms.items(), found[len(linears) :], strict=True):
            self._move_gain(name, norm, by_gain, rate)
        return before

    def _move_gain(self, name: str, norm: nn.Module, by_gain: Tensor, rate: float) -> None:
        gain = self._gains[name]
        factors = self.state.update(name, by_gain * gain, rate)
        norm.weight.requires_grad_(False).copy_(gain * factors)


class Distillation:
    """Trains what was solved, on windows of text one after another.

    checkpoint: that ``solved`` was made from; layouts: of its table and of its head. windows:
    token ids (n, tokens) int64, a step each.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        solved: Mapping[str, Quantized],
        layouts: tuple[Layout, Layout],
        windows: np.ndarray,
    ) -> None:
        self._checkpoint = checkpoint
        self._solved = solved
        self._layouts = layouts
        self._windows = torch.from_numpy(windows)
        self._state = State()

    def run(self, progress: Progress) -> tuple[dict[str, Quantized], dict[str, np.ndarray], list]:
        """Matrices and gains of norms by checkpoint name, and the divergence at each step.

        What is done is kept in the cache a few steps at a time: a run that was cut off goes on.
        """
        key = {
            "method": METHOD,
            "fingerprint": self._checkpoint.fingerprint(),
            "windows": _digest([self._windows.numpy()]),
            "solved": _digest([x for q in self._solved.values() for x in (q.codes, q.scales)]),
            "layouts": [asdict(layout) for layout in self._layouts],
            "settings": [RATE, *DECAYS],
            "versions": {name: version(name) for name in ("numpy", "torch", "transformers")},
        }
        losses: list[float] = []
        total = len(self._windows)
        steps = Counter(progress, "distillation", "steps", total)
        for start in range(0, total, KEPT):
            stop = min(start + KEPT, total)
            train = partial(self._train, start, stop, steps)
            stored = cache.arrays("distilled", {**key, "step": stop}, train)
            self._state.load(stop, stored)
            losses += stored["losses"].tolist()
            steps.reach(stop)  # where the cache had them
        return *self._student.results(), losses

    def _train(self, start: int, stop: int, steps: Counter) -> cache.Arrays:
        total, losses = len(self._windows), []
        for step in range(start, stop):
            ids = self._windows[step : step + 1]
            rate = RATE * (1 - step / total)
            losses.append(self._student.step(ids, self._goal(ids), rate))
            steps.advance()
        return {**self._state.arrays(), "losses": np.array(losses)}

    @cached_property
    def _teacher(self) -> LayerwiseLlama:
        return LayerwiseLlama(self._checkpoint)

    @cached_property
    def _student(self) -> Student:
        net = LayerwiseLlama(self._checkpoint)
        weights = (net.table.numpy(), net.head.weight.numpy())
        table, head = (
            round_to_nearest(weight, layout).dequantize()
            for weight, layout in zip(weights, self._layouts, strict=True)
        )
        return Student(net, self._solved, table, head, self._state)

    @torch.no_grad()
    def _goal(self, ids: Tensor) -> Tensor:
        """The original's log-probabilities, (tokens, vocab)."""
        states = self._teacher.table[ids]
        for i in range(len(self._teacher.layers)):
            states = self._teacher.run(i, states)
        return self._teacher.logits(states)[0].log_softmax(1)


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
