"""GPTQ for outputs that do not all count alike: rows make up for one another's errors too.

GPTQ takes a matrix's rows one by one: an error of any output counts the same, and by itself. The
model's predictions see it otherwise. Where errors E (rows, columns) meet inputs of second moments
H, and the predictions' slope at the outputs has second moments G (``Curvature``), they cost

    tr(G E H Eᵀ)

(as YAQA, Tseng et al., 2025, arXiv:2505.22988). So rows are rounded some at a time, and the errors
of those that are done move the goals of those to come, as GPTQ does with columns. Within those
few, rows are still taken one by one. Groups, which know nothing of one another, go side by side.
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
    waiting = [_Waiting.of(group, goal) for group in groups]
    parts, order, error = [], [], 0.0
    for start in range(0, max(len(own.rows) for own in waiting), AT_ONCE):
        now, later = slice(start, start + AT_ONCE), slice(start + AT_ONCE, None)
        found = gptq(np.concatenate([own.goal[now] for own in waiting]), hessian, layout)
        ends = np.cumsum([len(own.goal[now]) for own in waiting])[:-1]
        values = np.split(found.dequantize(), ends)  # by group
        for own, rounded in zip(waiting, values, strict=True):
            _pass_on(own.goal[now] - rounded, own.factor[now], now, own.goal[later])
            error += float(np.square(goal[own.rows[now]] - rounded, dtype=np.float64).sum())
            order.append(own.rows[now])
        parts.append(found)
    return _in_order(parts, np.argsort(np.concatenate(order)), error)


class _Waiting(NamedTuple):
    """A group whose rows are rounded some at a time, those first that count most."""

    rows: np.ndarray  # int (n,)
    goal: np.ndarray  # (n, columns): what is still to be rounded makes up for what is
    factor: np.ndarray  # (n, n), of G

    @classmethod
    def of(cls, group: Group, goal: np.ndarray) -> "_Waiting":
        first = np.argsort(-np.diagonal(group.gram), kind="stable")
        rows = group.rows[first]
        return cls(rows, goal[rows], _factor(group.gram[np.ix_(first, first)]))


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
