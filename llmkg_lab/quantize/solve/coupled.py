"""GPTQ for outputs that do not all count alike: rows make up for one another's errors too.

GPTQ takes a matrix's rows one by one: an error of any output counts the same, and by itself. The
model's predictions see it otherwise. Where errors E (rows, columns) meet inputs of second moments
H, and the predictions' slope at the outputs has second moments G (``Curvature``), they cost

    tr(G E H Eᵀ)

(as YAQA, Tseng et al., 2025, arXiv:2505.22988). So rows are rounded some at a time, and the errors
of those that are done move the goals of those to come, as GPTQ does with columns. Within those
few, rows are still taken one by one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from llmkg_lab.quantize.blocks.rounding import Quantized
from llmkg_lab.quantize.solve.gptq import Factored, gptq, inverse_factor
from llmkg_lab.scheme import Layout

AT_ONCE = 64  # rows
# Of the mean of G's diagonal, added to it: a text of some thousand tokens knows G only roughly
RIDGE = 1.0
WIDEST = 1024  # outputs that are weighed together: all pairs of them are summed


class Group(NamedTuple):
    """Outputs of a matrix that are weighed together."""

    rows: np.ndarray  # int (n,)
    gram: np.ndarray  # float32 (n, n), Σ g gᵀ over tokens, up to a factor


def coupled(
    goal: np.ndarray, hessian: Factored, layout: Layout, groups: Sequence[Group]
) -> Quantized:
    """Quantize a matrix whose outputs count as ``groups`` say, of which each row is in one.

    goal: float32 (rows, columns); hessian: of its inputs, for the layout's block size.
    """
    parts, order, error = [], [], 0.0
    for group in groups:
        first = np.argsort(-np.diagonal(group.gram), kind="stable")  # those that count most
        factor = _factor(group.gram[np.ix_(first, first)])
        rows = group.rows[first]
        moved = goal[rows]  # what is still to be rounded makes up for what is
        for start in range(0, len(rows), AT_ONCE):
            own, later = slice(start, start + AT_ONCE), slice(start + AT_ONCE, None)
            found = gptq(moved[own], hessian, layout)
            values = found.dequantize()
            _pass_on(moved[own] - values, factor[own], own, moved[later])
            error += float(np.square(goal[rows[own]] - values, dtype=np.float64).sum())
            parts.append(found)
        order.append(rows)
    return _in_order(parts, np.argsort(np.concatenate(order)), error)


def _factor(gram: np.ndarray) -> np.ndarray:
    """The inverse of G's factor, as GPTQ's of H: row i says how its error spreads."""
    mean = float(np.diagonal(gram).mean(dtype=np.float64))
    held = RIDGE * mean if mean > 0 else 1.0  # outputs that nothing reads: each for itself
    return inverse_factor(gram.astype(np.float64) + held * np.eye(len(gram)))


def _pass_on(errors: np.ndarray, factor: np.ndarray, own: slice, later: np.ndarray) -> None:
    """Move the goals of later rows (n, columns), in place.

    errors: (rows, columns) of those that were rounded; factor: their rows of G's factor.
    """
    import torch

    among = torch.from_numpy(np.ascontiguousarray(factor[:, own].T))  # lower triangular
    spread = torch.linalg.solve_triangular(among, torch.from_numpy(errors), upper=False)
    behind = torch.from_numpy(factor[:, own.stop :])
    torch.from_numpy(later).addmm_(behind.T, spread, alpha=-1)


def _in_order(parts: Sequence[Quantized], places: np.ndarray, error: float) -> Quantized:
    """Rows from several parts as one matrix; places: where each of its rows lies in them."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])[places]

    zero_points = None if parts[0].layout.symmetric else joined("zero_points")
    return replace(
        parts[0],
        codes=joined("codes"),
        scales=joined("scales"),
        zero_points=zero_points,
        squared_error=error,
    )
