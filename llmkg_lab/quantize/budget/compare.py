"""A mix of layouts against simpler ones of that size, by what is measured of each.

A knapsack buys what its prices hold too cheap, so that of many layouts it makes a worse mix than of
two, and a worse one than 4 bits throughout where those happen to fill the budget
(docs/lab-notes/quantization.md). So all are solved on a little text, run on other text, and the
best one is taken.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llmkg_lab.base.progress import Progress, inside
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.quantize.blocks.rounding import round_to_nearest
from llmkg_lab.quantize.budget import allocate
from llmkg_lab.quantize.budget.allocate import Allocation
from llmkg_lab.quantize.budget.options import Sensitivities
from llmkg_lab.quantize.solve.decoder import Solved, calibrate
from llmkg_lab.quantize.solve.effort import seconds_of
from llmkg_lab.quantize.solve.text import WINDOW
from llmkg_lab.scheme import Layout, Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama

SOLVING, JUDGING = 8, 4  # windows
UNIFORM, TWO_WIDTHS = 3, 2  # of each, compared: one takes half a minute for 135 M parameters
NARROW = 4  # bits of what two widths begin with
WIDE = Layout(8, 64, True, half_scales=True)  # what they raise matrices to


def simpler(sensitivities: Sensitivities, nbytes: int) -> dict[str, dict[str, Layout]]:
    """What a mix within ``nbytes`` is compared with, by name: layouts by the unit's name."""
    kinds = {
        "two widths": two_widths(sensitivities, nbytes),
        "uniform": uniform(sensitivities, nbytes),
    }
    return {f"{kind} {i}": own for kind, found in kinds.items() for i, own in enumerate(found, 1)}


def two_widths(sensitivities: Sensitivities, nbytes: int) -> list[dict[str, Layout]]:
    """One layout of NARROW bits, but WIDE for those that gain most by it, within ``nbytes``.

    Of the layouts to begin with, the TWO_WIDTHS best ones as predicted; by the unit's name.
    """
    matrices = sensitivities.matrices
    layouts = {option.layout for options in matrices.values() for option in options}
    found = []
    for narrow in sorted((own for own in layouts if own.bits == NARROW), key=str):
        offered = {
            name: tuple(option for option in options if option.layout in (narrow, WIDE))
            for name, options in matrices.items()
        }
        if all(offered.values()):
            found.append(allocate.mix(replace(sensitivities, matrices=offered), nbytes))
    fitting = sorted((own for own in found if own), key=lambda own: own.kl)
    return [own.layouts for own in fitting[:TWO_WIDTHS]]


def uniform(sensitivities: Sensitivities, nbytes: int) -> list[dict[str, Layout]]:
    """One layout for all matrices and one for the tables, within ``nbytes``, by the unit's name.

    Of the pairs that fit, the UNIFORM ones that are predicted to diverge least, the best first.
    """
    priced = {
        name: {option.layout: option for option in options}
        for name, options in sensitivities.matrices.items()
    }
    kinds: dict[frozenset[Layout], list[str]] = {}  # matrices have other layouts than tables
    for name, options in priced.items():
        kinds.setdefault(frozenset(options), []).append(name)
    choices: list[tuple[float, int, dict[str, Layout]]] = [(0.0, sensitivities.fixed_bytes, {})]
    for layouts, names in kinds.items():
        choices = [
            (
                kl + sum(priced[name][layout].kl for name in names),
                size + sum(priced[name][layout].nbytes for name in names),
                {**chosen, **dict.fromkeys(names, layout)},
            )
            for kl, size, chosen in choices
            for layout in sorted(layouts, key=str)
        ]
    fitting = sorted((c for c in choices if c[1] <= nbytes), key=lambda choice: choice[0])
    return [layouts for _, _, layouts in fitting[:UNIFORM]]


def expected_seconds(checkpoint: Checkpoint) -> float:
    """About how long ``better`` takes here, of all that it may compare."""
    window = min(WINDOW, checkpoint.form.positions)
    first = seconds_of(checkpoint, SOLVING * window)
    later = seconds_of(checkpoint, SOLVING * window, again=True)
    return first + (UNIFORM + TWO_WIDTHS) * later


def measured(
    checkpoint: Checkpoint,
    scheme: Scheme,
    candidates: Mapping[str, Mapping[str, Layout]],
    windows: np.ndarray,
    progress: Progress,
) -> dict[str, float]:
    """The divergence of each candidate, nats per token, solved on some windows, run on others.

    checkpoint: as it is solved; candidates: layouts by unit; windows: ids (n, tokens) int64, of
    which the first are solved on.
    """
    from llmkg_lab.quantize.solve.curvature import Curvature  # torch
    from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama

    solving = min(SOLVING, max(len(windows) - JUDGING, (len(windows) + 1) // 2))
    judging = windows[solving : solving + JUDGING] if len(windows) > 1 else windows
    with closing(Curvature(checkpoint.form, windows[:solving])) as curvature:
        solved = {
            name: calibrate(
                checkpoint,
                scheme,
                windows[:solving],
                layouts,
                inside(progress, name),
                curvature=curvature,
            )
            for name, layouts in candidates.items()
        }
    net = LayerwiseLlama(checkpoint)
    tables = [module.weight.clone() for module in _tables(net)]
    original = _predictions(net, judging)
    found = {}
    for name, layouts in candidates.items():
        _place(net, checkpoint, solved[name], layouts, tables)
        found[name] = _divergence(original, _predictions(net, judging))
    return found


def better(
    checkpoint: Checkpoint,
    scheme: Scheme,
    mix: Allocation,
    others: Mapping[str, dict[str, Layout]],
    windows: np.ndarray,
    progress: Progress,
) -> tuple[dict[str, Layout], dict[str, float]]:
    """The layouts of the mix or the best of ``others``, and what was measured of each.

    Arguments as above. Nothing is measured where there is no choice.
    """
    candidates = {"mix": mix.layouts}
    for name, layouts in others.items():
        if layouts not in candidates.values():
            candidates[name] = layouts
    if len(candidates) == 1:
        return mix.layouts, {}
    found = measured(checkpoint, scheme, candidates, windows, progress)
    return candidates[min(found, key=lambda name: found[name])], found


def _tables(net: "LayerwiseLlama") -> list:
    return [net.model.get_input_embeddings(), net.head]


def _place(
    net: "LayerwiseLlama",
    checkpoint: Checkpoint,
    solved: Solved,
    layouts: Mapping[str, Layout],
    tables: Sequence["Tensor"],
) -> None:
    """Fill the model with quantized weights; tables: as they were."""
    import torch

    form = checkpoint.form
    for i in range(len(net.layers)):
        for name, linear in net.linears(i):
            linear.weight.copy_(torch.from_numpy(solved[name].dequantize()))
    names = (form.table, form.table if form.tied else form.head)
    for module, table, name in zip(_tables(net), tables, names, strict=True):
        stored = round_to_nearest(table.numpy(), layouts[name]).dequantize()
        module.weight.copy_(torch.from_numpy(stored))


def _predictions(net: "LayerwiseLlama", windows: np.ndarray) -> "list[Tensor]":
    """Log-probabilities of each window's last half, (tokens, vocab): there is context for them."""
    import torch

    found = []
    with torch.inference_mode():
        for window in windows:
            states = net.embed(window[None])
            for i in range(len(net.layers)):
                states = net.run(i, states)
            found.append(net.logits(states[0, states.shape[1] // 2 :]).log_softmax(-1))
    return found


def _divergence(original: "Sequence[Tensor]", moved: "Sequence[Tensor]") -> float:
    pairs = zip(original, moved, strict=True)
    return float(np.mean([float((a.exp() * (a - b)).sum(-1).mean()) for a, b in pairs]))
