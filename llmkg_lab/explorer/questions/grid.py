"""Sensitivities laid out as a map: one row per kind of matrix, one column per layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from llmkg_lab.models.base import Unit
from llmkg_lab.quantize.budget.options import Option, Sensitivities
from llmkg_lab.scheme import Layout

LEVELS = 9  # shades of the map
OUTSIDE = -1  # the layer of what belongs to none: tables and heads
KINDS = {  # of matrices as the graph stores them, in words
    "qkv": "q, k, v",
    "o": "o",
    "gate_up": "gate, up",
    "down": "down",
    "table": "table",
    "head": "head",
}


@dataclass(frozen=True)
class Cell:
    """One matrix as the graph stores it."""

    name: str  # tensor of the checkpoint, of a fused product the first
    kind: str
    layer: int  # OUTSIDE where it belongs to none


def cells_of(sensitivities: Sensitivities, units: Iterable[Unit]) -> list[Cell]:
    """The matrices that were priced, in the order of the graph.

    Args:
        sensitivities: What was priced.
        units: All of the model's matrices, as its form has them.
    """
    priced = (unit for unit in units if unit.name in sensitivities.matrices)
    return [Cell(unit.name, KINDS[unit.kind], unit.layer) for unit in priced]


def layouts_of(sensitivities: Sensitivities) -> list[Layout]:
    """All layouts that a matrix may take somewhere, the narrowest first."""
    found = {option.layout for options in sensitivities.matrices.values() for option in options}
    return sorted(found, key=lambda layout: (layout.bits, -layout.block_size, layout.symmetric))


def option_of(sensitivities: Sensitivities, name: str, layout: Layout) -> Option | None:
    """What a layout of a matrix costs, None where that was not measured."""
    options = sensitivities.matrices[name]
    return next((option for option in options if option.layout == layout), None)


def layout_name(layout: Layout) -> str:
    """A layout in words: ``4 bits, blocks of 32``."""
    points = ", symmetric" if layout.symmetric else ""
    scales = ", float16 scales" if layout.half_scales else ""
    return f"{layout.bits} bits, blocks of {layout.block_size}{points}{scales}"


def levels(values: Mapping[str, float]) -> dict[str, int]:
    """The shade of each positive value, 0 to LEVELS - 1, on a logarithmic scale over them all."""
    if not values:
        return {}
    names, logs = list(values), np.log(np.maximum(list(values.values()), 1e-12))
    spread = max(float(np.ptp(logs)), 1e-9)
    shades = np.minimum((logs - logs.min()) / spread * LEVELS, LEVELS - 1).astype(int)
    return dict(zip(names, shades.tolist(), strict=True))


def losses(sensitivities: Sensitivities, layout: Layout) -> dict[str, float]:
    """Divergence of the model with only this matrix in ``layout``, nats per token, by name."""
    found = {name: option_of(sensitivities, name, layout) for name in sensitivities.matrices}
    return {name: option.kl for name, option in found.items() if option}
