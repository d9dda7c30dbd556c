"""Quantize a decoder's matrices one after another, each for the inputs that it will really see.

Those come from calibration text that has passed through all that lies before, already quantized.
A matrix's goal is the output that the original model has there: it first moves towards the
weights that reach it from the disturbed inputs, by least squares (as in GPTAQ, Li et al., 2025,
arXiv:2504.02692), and where its output is added to the residual stream, it makes up for the
stream's error too. Then GPTQ finds the codes, rows making up for one another's errors as far as
the predictions mind them (``coupled``). What is done is kept in the cache layer by layer: a run
that was cut off goes on where it stopped, and the second artifact from the same inputs costs only
the reading.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
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
from llmkg_lab.quantize.solve.coupled import RIDGE, Group, coupled
from llmkg_lab.quantize.solve.device import arithmetic, device_of
from llmkg_lab.quantize.solve.gptq import DAMPING, factored
from llmkg_lab.scheme import Layout, Scheme, integer_layout

if TYPE_CHECKING:
    import torch

    from llmkg_lab.quantize.solve.curvature import Curvature
    from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama
    from llmkg_lab.quantize.solve.streams import Spilled
    from llmkg_lab.quantize.solve.sums import Sums

METHOD = 8  # counted up when the same inputs would give other codes: cached layers are then void
AT_ONCE = 2048  # tokens that pass a layer together

Solved = dict[str, Quantized]  # by the checkpoint's name of the matrix


def calibrate(
    checkpoint: Checkpoint,
    scheme: Scheme,
    windows: np.ndarray,
    layouts: Mapping[str, Layout] = MappingProxyType({}),
    progress: Progress = silent,
    curvature: "Curvature | None" = None,
) -> Solved:
    """Solve all linear layers of a decoder by GPTQ.

    windows: token ids of calibration text, (n, tokens) int64.
    layouts: of units that are stored otherwise than the scheme says, by the unit's name.
    curvature: of the windows, where several calls share it; it stays open.
    Needs torch and transformers where the cache lacks a layer.
    """
    form = checkpoint.form
    units = list(form.units())
    plain = integer_layout(scheme.linear())
    chosen = {unit.name: layouts.get(unit.name, plain) for unit in units}
    table = integer_layout(scheme.table(is_head=form.tied))
    chosen[form.table] = layouts.get(form.table, table)
    device = device_of(checkpoint)
    walk = _Walk(checkpoint, windows, chosen, progress, device, curvature)
    total = form.layers
    known = [asdict(chosen[form.table])]  # and of all layers up to the one at hand
    key = {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "damping": [DAMPING, RIDGE],  # of inputs and of outputs
        "windows": [*windows.shape, hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()],
        "versions": {name: version(name) for name in ("numpy", "torch", "transformers")},
        "instructions": arithmetic(device),
        "layouts": known,
    }
    solved: Solved = {}

    def layer(i: int) -> cache.Arrays:
        return _arrays(walk.solve(i, solved))

    with closing(walk):
        for i in track(range(total), progress, "calibration", "layers"):
            own = [unit for unit in units if unit.layer == i]
            known += [asdict(chosen[unit.name]) for unit in own]
            stored = cache.arrays("calibrated", key, partial(layer, i))
            for unit in own:
                solved |= _from_arrays(stored, unit, chosen[unit.name])
    return solved


class _Walk:
    """Calibration text on its way through two models: the original one, and the quantized one.

    The model is loaded when it is needed. Both residual streams lie on the disk.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        windows: np.ndarray,
        layouts: Mapping[str, Layout],
        progress: Progress,
        device: str,
        curvature: "Curvature | None" = None,
    ) -> None:
        self._device = device
        self._checkpoint = checkpoint
        self._progress = progress
        self._curvature, self._own_curvature = curvature, curvature is None
        self._windows = windows
        self._layouts = layouts  # by unit
        self._units = list(checkpoint.form.units())
        self._position = 0  # the layer whose inputs the streams are
        self._spilled: list[Spilled] = []
        self._inputs: dict[str, Spilled] = {}  # of the last unit of a kind, in the second model
        self._pending: tuple[torch.nn.Linear, Spilled] | None = None  # to add to the second stream

    def solve(self, i: int, solved: Solved) -> Solved:
        """Quantize the matrices of layer ``i``; ``solved`` holds those of all layers before."""
        from llmkg_lab.quantize.solve.curvature import Curvature

        if self._curvature is None:
            self._curvature = Curvature(self._checkpoint.form, self._windows)
        self._curvature.find(self._net, self._progress)
        while self._position < i:  # where the cache had them
            self._through(self._position, dict(solved))
        found: Solved = {}
        self._through(i, found)
        return found

    def close(self) -> None:
        """Give the disk back."""
        for spilled in self._spilled:
            spilled.close()
        if self._curvature and self._own_curvature:
            self._curvature.close()

    @cached_property
    def _net(self) -> "LayerwiseLlama":
        from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama

        return LayerwiseLlama(self._checkpoint, self._device)

    @cached_property
    def _streams(self) -> "tuple[Spilled, Spilled]":
        """What goes into the layer in the original model and in the quantized one.

        (windows, tokens, hidden) each.
        """
        layout = self._layouts[self._checkpoint.form.table]
        table = self._net.table.cpu().numpy()
        stored = round_to_nearest(table, layout).dequantize()
        streams = [self._spill(table.shape[1]) for _ in range(2)]
        for part in self._chunks():
            for stream, embedding in zip(streams, (None, stored), strict=True):
                stream.write(part, self._net.embed(self._windows[part], embedding))
        return streams[0], streams[1]

    def _through(self, i: int, found: Solved) -> None:
        """Move both streams through layer ``i``.

        Matrices that ``found`` lacks are solved on the way, each for what goes into it when all
        before it are quantized.
        """
        import torch

        from llmkg_lab.quantize.solve.sums import products

        net, layer = self._net, self._net.layers[i]
        twin = copy.deepcopy(layer)  # its matrices become the quantized ones
        with torch.inference_mode(), products("medium"):
            self._read(i, "qkv", twin, layer.input_layernorm, found)
            self._add(i, "o", (layer, twin), layer.input_layernorm, net.attend, found)
            self._read(i, "gate_up", twin, layer.post_attention_layernorm, found)
            self._add(i, "down", (layer, twin), layer.post_attention_layernorm, net.gate, found)
        self._position = i + 1

    def _read(
        self, i: int, kind: str, twin: "torch.nn.Module", norm: "torch.nn.Module", found: Solved
    ) -> None:
        """A unit that reads the streams through a norm."""
        sums = self._sums(i, kind, found)
        sizes = self._sizes(i, kind)
        for part in self._chunks():
            original, quantized = (stream.read(part) for stream in self._streams)
            if self._pending:
                linear, inputs = self._pending
                quantized += linear(inputs.read(part))
                self._streams[1].write(part, quantized)
            if sums:
                x, y = norm(original), norm(quantized)
                self._count(sums, part, y * sizes[part], (x - y) * sizes[part])
        self._pending = None
        self._place(i, kind, twin, sums, found)

    def _add(
        self,
        i: int,
        kind: str,
        layers: "tuple[torch.nn.Module, torch.nn.Module]",
        norm: "torch.nn.Module",
        inputs_of: "Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]",
        found: Solved,
    ) -> None:
        """A unit whose output is added to the streams; it makes up for their difference too."""
        sums = self._sums(i, kind, found, of_outputs=True)
        sizes = self._sizes(i, kind)
        name = self._unit(i, kind).parts[0]
        linear, twin = (self._net.linear(layer, name) for layer in layers)
        kept = self._kept(kind, linear.in_features)
        for part in self._chunks():
            streams = [stream.read(part) for stream in self._streams]
            inputs = [inputs_of(*pair) for pair in zip(layers, map(norm, streams), strict=True)]
            if sums:
                # of differences, which are small: the factors of products may be in bfloat16
                lacking = (inputs[0] - inputs[1]) @ linear.weight.T + (streams[0] - streams[1])
                self._count(sums, part, inputs[1] * sizes[part], lacking * sizes[part])
            self._streams[0].write(part, streams[0] + linear(inputs[0]))
            kept.write(part, inputs[1])
        self._place(i, kind, layers[1], sums, found)
        self._pending = (twin, kept)

    def _sums(
        self, i: int, kind: str, found: Solved, of_outputs: bool = False
    ) -> "tuple[Sums, Sums] | None":
        """What a unit is solved from; None where ``found`` has it."""
        from llmkg_lab.quantize.solve.sums import Sums

        if found.keys() >= set(self._unit(i, kind).parts):
            return None
        return Sums(of_outputs), Sums(of_outputs)

    def _sizes(self, i: int, kind: str) -> "torch.Tensor":
        """What tokens are multiplied with, (windows, tokens, 1), to count as their slopes say."""
        assert self._curvature  # found when the layer began
        counts = self._curvature.counts(self._unit(i, kind))
        return counts.sqrt()[..., None].to(self._device)

    @staticmethod
    def _count(sums: "tuple[Sums, Sums]", part: slice, *values: "torch.Tensor") -> None:
        """Count windows in, of which every other one is of another kind."""
        for i, own in enumerate(sums):
            own.add(*(each[(i - part.start) % 2 :: 2] for each in values))

    def _place(
        self,
        i: int,
        kind: str,
        twin: "torch.nn.Module",
        sums: "tuple[Sums, Sums] | None",
        found: Solved,
    ) -> None:
        """Give a unit its quantized weights in ``twin``, solved from ``sums`` where there are."""
        import torch

        from llmkg_lab.quantize.solve.sums import products

        unit = self._unit(i, kind)
        modules = {name: self._net.linear(twin, name) for name in unit.parts}
        if sums:
            weights = {name: module.weight for name, module in modules.items()}
            assert self._curvature  # found when the layer began
            with products("highest"):
                groups = self._curvature.groups(unit)
                found |= _solve(weights, self._layouts[unit.name], sums, groups)
        for name, module in modules.items():
            module.weight.copy_(torch.from_numpy(found[name].dequantize()))

    def _kept(self, kind: str, width: int) -> "Spilled":
        """A file that is written over and over: pages that the system has are taken quickly."""
        if kind not in self._inputs:
            self._inputs[kind] = self._spill(width)
        return self._inputs[kind]

    def _spill(self, width: int) -> "Spilled":
        from llmkg_lab.quantize.solve.streams import Spilled

        self._spilled.append(Spilled(self._windows.shape[1], width, self._device))
        return self._spilled[-1]

    def _unit(self, i: int, kind: str) -> Unit:
        return next(unit for unit in self._units if unit.layer == i and unit.kind == kind)

    def _chunks(self) -> Iterator[slice]:
        from llmkg_lab.quantize.solve.streams import chunks

        return chunks(len(self._windows), self._windows.shape[1], AT_ONCE)


def _solve(
    weights: "Mapping[str, torch.Tensor]",
    layout: Layout,
    sums: "tuple[Sums, Sums]",
    groups: Sequence[Group],
) -> Solved:
    """Quantize matrices (rows, columns) that read the same inputs.

    Their outputs are to be the original's, and count as ``groups`` of the stacked rows say.
    """
    import torch

    from llmkg_lab.quantize.solve.sums import best_ridge

    stacked = torch.cat(list(weights.values()))
    one, other = (own.done(stacked) for own in sums)
    both = one.both(other)
    goal = stacked.add_(both.move(best_ridge(one, other))).cpu().numpy()
    ready = factored(both.hessian.cpu().numpy(), layout.block_size)
    found = coupled(goal, ready, layout, groups)
    ends = np.cumsum([len(weight) for weight in weights.values()])
    parts = [slice(end - len(own), end) for end, own in zip(ends, weights.values(), strict=True)]
    return {name: found.rows(own, goal[own]) for name, own in zip(weights, parts, strict=True)}


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
