"""Quantize a decoder's layers one after another, each for the inputs that it will really see.

The inputs of a layer come from calibration text that has passed through the layers before it,
already quantized, so that a layer also corrects for those. What is done is kept in the cache
layer by layer: a run that was cut off goes on where it stopped, and the second artifact from
the same inputs costs only the reading.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from llmkg_lab import cache
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.quantize.blockwise import Quantized, round_to_nearest
from llmkg_lab.quantize.gptq import DAMPING, gptq
from llmkg_lab.quantize.scheme import Layout, Scheme
from llmkg_lab.quantize.units import TABLE, Unit, units_of

if TYPE_CHECKING:
    import torch

    from llmkg_lab.quantize.layerwise import LayerwiseLlama

METHOD = 2  # counted up when the same inputs would give other codes: cached layers are then void
TOKENS = 8 * 512  # twice as many as the widest matrix of a small model has columns

Progress = Callable[[int, int, str], None]  # layers done, in all, what
Solved = dict[str, Quantized]  # by the checkpoint's name of the matrix


def calibrate(
    checkpoint: Checkpoint,
    scheme: Scheme,
    windows: np.ndarray,
    layouts: Mapping[str, Layout] = MappingProxyType({}),
    progress: Progress = lambda done, total, what: None,
) -> Solved:
    """Solve all linear layers of a decoder by GPTQ.

    windows: token ids of calibration text, (n, tokens) int64.
    layouts: of units that are stored otherwise than the scheme says, by the unit's name.
    Needs torch and transformers where the cache lacks a layer.
    """
    units = list(units_of(checkpoint.config))
    tied = bool(checkpoint.config.get("tie_word_embeddings", False))
    chosen = {unit.name: layouts.get(unit.name, scheme.linear()) for unit in units}
    chosen[TABLE] = layouts.get(TABLE, scheme.table(is_head=tied))
    walk = _Walk(checkpoint, windows, chosen[TABLE])
    total = checkpoint.config["num_hidden_layers"]
    key = {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "damping": DAMPING,
        "windows": [*windows.shape, hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()],
        "versions": {name: version(name) for name in ("numpy", "torch", "transformers")},
        "layouts": [asdict(chosen[TABLE])],
    }
    solved: Solved = {}

    def layer(i: int, own: list[Unit]) -> cache.Arrays:
        return _arrays(walk.solve(i, own, chosen, solved))

    for i in range(total):
        progress(i, total, f"calibrating layer {i}")
        own = [unit for unit in units if unit.layer == i]
        key["layouts"] += [asdict(chosen[unit.name]) for unit in own]  # and of all layers before
        stored = cache.arrays("calibrated", key, partial(layer, i, own))
        for unit in own:
            solved |= _from_arrays(stored, unit, chosen[unit.name])
    progress(total, total, "calibrated")
    return solved


class _Walk:
    """Calibration text on its way through the model; the model is loaded when it is needed."""

    def __init__(self, checkpoint: Checkpoint, windows: np.ndarray, table: Layout) -> None:
        self._checkpoint = checkpoint
        self._windows = windows
        self._table = table
        self._position = 0  # the layer whose inputs ``_states`` are

    def solve(
        self, i: int, units: list[Unit], layouts: Mapping[str, Layout], solved: Solved
    ) -> Solved:
        """Quantize the matrices of layer ``i``; ``solved`` holds those of all layers before."""
        while self._position < i:
            self._pass(self._position, solved)
            self._position += 1
        weights = {name: linear.weight.numpy() for name, linear in self._net.linears(i)}
        hessians, _ = self._net.observe(i, self._states)
        return {
            name: gptq(weights[name], hessians[name], layouts[unit.name])
            for unit in units
            for name in unit.parts
        }

    @cached_property
    def _net(self) -> "LayerwiseLlama":
        from llmkg_lab.quantize.layerwise import LayerwiseLlama

        return LayerwiseLlama(self._checkpoint)

    @cached_property
    def _states(self) -> "torch.Tensor":
        """The residual stream before layer ``_position``, (windows, tokens, hidden) float32."""
        table = round_to_nearest(self._net.table.numpy(), self._table).dequantize()
        return self._net.embed(self._windows, table)

    def _pass(self, i: int, solved: Solved) -> None:
        """Layer ``i`` takes its quantized weights, and the text goes through it."""
        import torch

        for name, linear in self._net.linears(i):
            linear.weight.copy_(torch.from_numpy(solved[name].dequantize()))
        with torch.inference_mode():
            for window in self._states.split(1):
                window.copy_(self._net.run(i, window))


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
