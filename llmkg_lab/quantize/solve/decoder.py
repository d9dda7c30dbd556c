"""Quantize a decoder's matrices one after another, each for the inputs that it will really see.

Those come from calibration text that has passed through all that lies before, already quantized.
A matrix's goal is the output that the original model has there: it first moves towards the
weights that reach it from the disturbed inputs, by least squares (as in GPTAQ, Li et al., 2025,
arXiv:2504.02692), and where its output is added to the residual stream, it makes up for the
stream's error too. Then GPTQ finds the codes. What is done is kept in the cache
layer by layer: a run that was cut off goes on where it stopped, and the second artifact from
the same inputs costs only the reading.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from llmkg_lab.base import cache
from llmkg_lab.base.progress import Progress, silent, track
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.models.base import Unit
from llmkg_lab.quantize.blocks.rounding import Quantized, round_to_nearest
from llmkg_lab.quantize.solve.gptq import DAMPING, Factored, factored, gptq
from llmkg_lab.scheme import Layout, Scheme, integer_layout

if TYPE_CHECKING:
    import torch

    from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama

RIDGE = 0.1  # of the mean square of the inputs: how strongly a goal holds on to the weights
METHOD = 4  # counted up when the same inputs would give other codes: cached layers are then void
TOKENS = 8 * 512  # twice as many as the widest matrix of a small model has columns

Solved = dict[str, Quantized]  # by the checkpoint's name of the matrix


def calibrate(
    checkpoint: Checkpoint,
    scheme: Scheme,
    windows: np.ndarray,
    layouts: Mapping[str, Layout] = MappingProxyType({}),
    progress: Progress = silent,
) -> Solved:
    """Solve all linear layers of a decoder by GPTQ.

    windows: token ids of calibration text, (n, tokens) int64.
    layouts: of units that are stored otherwise than the scheme says, by the unit's name.
    Needs torch and transformers where the cache lacks a layer.
    """
    form = checkpoint.form
    units = list(form.units())
    plain = integer_layout(scheme.linear())
    chosen = {unit.name: layouts.get(unit.name, plain) for unit in units}
    table = integer_layout(scheme.table(is_head=form.tied))
    chosen[form.table] = layouts.get(form.table, table)
    walk = _Walk(checkpoint, windows, chosen)
    total = form.layers
    known = [asdict(chosen[form.table])]  # and of all layers up to the one at hand
    key = {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "damping": DAMPING,
        "ridge": RIDGE,
        "windows": [*windows.shape, hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()],
        "versions": {name: version(name) for name in ("numpy", "torch", "transformers")},
        "layouts": known,
    }
    solved: Solved = {}

    def layer(i: int) -> cache.Arrays:
        return _arrays(walk.solve(i, solved))

    for i in track(range(total), progress, "calibration", "layers"):
        own = [unit for unit in units if unit.layer == i]
        known += [asdict(chosen[unit.name]) for unit in own]
        stored = cache.arrays("calibrated", key, partial(layer, i))
        for unit in own:
            solved |= _from_arrays(stored, unit, chosen[unit.name])
    return solved


class _Walk:
    """Calibration text on its way through two models: the original one, and the quantized one.

    The model is loaded when it is needed. Its layers hold quantized weights once passed.
    """

    def __init__(
        self, checkpoint: Checkpoint, windows: np.ndarray, layouts: Mapping[str, Layout]
    ) -> None:
        self._checkpoint = checkpoint
        self._windows = windows
        self._layouts = layouts  # by unit
        self._units = list(checkpoint.form.units())
        self._position = 0  # the layer whose inputs the streams are

    def solve(self, i: int, solved: Solved) -> Solved:
        """Quantize the matrices of layer ``i``; ``solved`` holds those of all layers before."""
        while self._position < i:  # where the cache had them
            self._through(self._position, dict(solved))
        found: Solved = {}
        self._through(i, found)
        return found

    @cached_property
    def _net(self) -> "LayerwiseLlama":
        from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama

        return LayerwiseLlama(self._checkpoint)

    @cached_property
    def _streams(self) -> list["torch.Tensor"]:
        """What goes into the layer in the original model and in the quantized one.

        (windows, tokens, hidden) each.
        """
        layout = self._layouts[self._checkpoint.form.table]
        table = round_to_nearest(self._net.table.numpy(), layout).dequantize()
        return [self._net.embed(self._windows), self._net.embed(self._windows, table)]

    def _through(self, i: int, found: Solved) -> None:
        """Move both streams through layer ``i``.

        Matrices that ``found`` lacks are solved on the way, each for what goes into it when all
        before it are quantized.
        """
        import torch

        layer, net = self._net.layers[i], self._net
        with torch.inference_mode():
            normed = [layer.input_layernorm(stream) for stream in self._streams]
            attended = net.attend(i, normed[0])
            self._place(i, ("qkv",), normed, found)
            self._add(i, "o", layer.self_attn.o_proj, [attended, net.attend(i, normed[1])], found)
            normed = [layer.post_attention_layernorm(stream) for stream in self._streams]
            gated = net.gate(i, normed[0])
            self._place(i, ("gate_up",), normed, found)
            self._add(i, "down", layer.mlp.down_proj, [gated, net.gate(i, normed[1])], found)
        self._position = i + 1

    def _add(
        self,
        i: int,
        kind: str,
        linear: "torch.nn.Linear",
        inputs: list["torch.Tensor"],
        found: Solved,
    ) -> None:
        """A unit whose output is added to the streams; it makes up for their difference too."""
        original = linear(inputs[0])
        # What is added counts by the stream's own size, which the next norm divides by; else the
        # few tokens of huge activations that models begin texts with would count alone
        size = self._streams[0].square().mean(-1, keepdim=True).rsqrt()
        gap = (self._streams[0] - self._streams[1]) * size
        self._place(i, (kind,), [x * size for x in inputs], found, gap)
        self._streams[0] += original
        self._streams[1] += linear(inputs[1])

    def _place(
        self,
        i: int,
        kinds: tuple[str, ...],
        inputs: list["torch.Tensor"],
        found: Solved,
        gap: "torch.Tensor | None" = None,
    ) -> None:
        """Give the units of ``kinds``, which read ``inputs``, their quantized weights."""
        import torch

        units = [unit for unit in self._units if unit.layer == i and unit.kind in kinds]
        modules = dict(self._net.linears(i))
        weights = {name: modules[name].weight for unit in units for name in unit.parts}
        if not found.keys() >= weights.keys():
            layouts = {name: self._layouts[u.name] for u in units for name in u.parts}
            original, quantized = (x.flatten(0, 1) for x in inputs)
            found |= _solve(weights, layouts, original, quantized, gap)
        for name, weight in weights.items():
            weight.copy_(torch.from_numpy(found[name].dequantize()))


def _solve(
    weights: Mapping[str, "torch.Tensor"],
    layouts: Mapping[str, Layout],
    original: "torch.Tensor",
    quantized: "torch.Tensor",
    gap: "torch.Tensor | None",
) -> Solved:
    """Quantize matrices that read the same inputs, so that their outputs are the original's.

    weights: (rows, columns) by name. original, quantized: what goes into them in the two models,
    (tokens, columns). gap: what the output is to make up for besides, (…, rows).
    """
    import torch

    hessian = quantized.T @ quantized
    shift = (original - quantized).T @ quantized  # (columns, columns)
    ridge = RIDGE * hessian.diagonal().mean() * torch.eye(len(hessian))
    lower = torch.linalg.cholesky(hessian + ridge)
    ready: dict[int, Factored] = {}
    solved: Solved = {}
    for name, weight in weights.items():
        missing = weight @ shift
        if gap is not None:
            missing += gap.flatten(0, 1).T @ quantized
        goal = weight + torch.cholesky_solve(missing.T, lower).T
        size = layouts[name].block_size
        if size not in ready:
            ready[size] = factored(hessian.numpy(), size)
        solved[name] = gptq(goal.numpy(), ready[size], layouts[name])
    return solved


def _arrays(solved: Solved) -> cache.Arrays:
    return {
        f"{name}:{part}": values
        for name, q in solved.items()
        for part, values in {
            "codes": q.codes,
            "scales": q.scales,
            "zero_points": q.zero_points,
            "columns": np.array(q.columns),
            "squared_error": np.array(q.squared_error),
        }.items()
        if values is not None
    }


def _from_arrays(arrays: cache.Arrays, unit: Unit, layout: Layout) -> Solved:
    return {
        name: Quantized(
            arrays[f"{name}:codes"],
            arrays[f"{name}:scales"],
            arrays.get(f"{name}:zero_points"),
            layout,
            int(arrays[f"{name}:columns"]),
            float(arrays[f"{name}:squared_error"]),
        )
        for name in unit.parts
    }
