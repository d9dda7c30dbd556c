"""What stands in for a calibrated scheme where there is no text to calibrate on.

Of a Llama the channels are equalized (the method ``eq``), of a BERT the scales are searched for the
least squared error (``mse``): each is what does better on the model that it was measured on (see
docs/lab-notes/quantization.md). Weights alone do not tell the matrices that matter from the others;
so a budget is filled evenly.
"""

import itertools
from dataclasses import asdict
from typing import Any

import numpy as np

from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.data.texts import TextError
from llmkg_lab.quantize.budget.options import (
    CANDIDATES,
    TABLES,
    fixed_bytes,
    stored_bytes,
)
from llmkg_lab.scheme import Layout, Scheme, SchemeError

LEAST_BITS = 4  # fewer, rounded without calibration, leave no model


def warning_of(scheme: Scheme, error: TextError) -> str:
    """What a user is told; ``error``: why there is no text."""
    return (
        f"{scheme.name} is NOT calibrated: {error.message}. It is made from the weights alone, "
        f"which costs quality. To calibrate it, {error.hint}"
    )


def record_of(
    scheme: Scheme, method: str, error: TextError, layouts: dict[str, Layout], nbytes: int
) -> dict:
    """The manifest's record, in the place of what calibration would say.

    method: what stands in; layouts and nbytes, a bound: of a budget.
    """
    record: dict[str, Any] = {
        "method": method,
        "instead_of": scheme.method,
        "warning": warning_of(scheme, error),
    }
    if scheme.budget:
        chosen = {name: asdict(layout) for name, layout in layouts.items()}
        record["budget"] = {"nbytes": nbytes, "layouts": chosen}
    return record


def even_layouts(checkpoint: Checkpoint, scheme: Scheme) -> tuple[dict[str, Layout], int]:
    """One layout for all matrices of a Llama and one for its tables, by the unit's name.

    Of those that fit the scheme's budget, the pair that fills it best, and its bytes.
    Raises SchemeError where none fits.
    """
    units = list(checkpoint.form.units())
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    assert scheme.budget is not None
    nbytes = scheme.budget.nbytes(checkpoint.parameters)
    candidates = [layout for layout in CANDIDATES if layout.bits >= LEAST_BITS]
    sizes = {}
    for pair in itertools.product(candidates, TABLES):
        total = fixed_bytes(checkpoint)
        for unit in units:
            rows = sum(shapes[name][0] for name in unit.parts)
            layout = pair[unit.kind in ("table", "head")]
            total += stored_bytes(layout, rows, shapes[unit.parts[0]][1])
        sizes[pair] = total
    fitting = {pair: size for pair, size in sizes.items() if size <= nbytes}
    if not fitting:
        least = np.ceil(min(sizes.values()) / 1e5) / 10
        raise SchemeError(
            f"a budget of {nbytes / 1e6:.1f} MB: without calibration text it takes {least:g} MB",
            f"write budget:{least:g}MB, or install a package with a text, such as gensim",
        )
    best = max(fitting, key=lambda pair: fitting[pair])
    return {unit.name: best[unit.kind in ("table", "head")] for unit in units}, fitting[best]
