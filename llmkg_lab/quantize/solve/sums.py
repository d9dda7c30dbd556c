"""What a matrix is solved from: sums over the tokens of a text, whatever its length."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

# Of the mean square of the inputs: how strongly a goal holds on to the weights.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
JUDGES = 256  # rows of a matrix, about, that choose its ridge: all would say the same
BLOCK = 256  # rows of squares that are summed together


class Sums:
    """Second moments of what goes into a matrix in the quantized model, and what is to be mended.

    With x̂ the input in the quantized model and d what a value lacks there, Σ x̂ x̂ᵀ and Σ d x̂ᵀ. The
    value is the matrix's input or, where it is to make up for more than that, its output.
    """

    def __init__(self, of_outputs: bool) -> None:
        """of_outputs: whether what lacks is told of outputs."""
        self._of_outputs = of_outputs
        self._squares = self._lacking = torch.zeros(0)

    def add(self, inputs: Tensor, lacking: Tensor) -> None:
        """Count tokens in: what goes into the matrix, (…, columns), and what lacks, (…, width)."""
        x, d = inputs.flatten(0, -2), lacking.flatten(0, -2)
        if not len(self._squares):
            self._squares = x.new_zeros(x.shape[1], x.shape[1])
            self._lacking = x.new_zeros(d.shape[1], x.shape[1])
        add_squares(self._squares, x)
        self._lacking.addmm_(d.T, x)

    def done(self, weight: Tensor) -> "Moments":
        """What was counted, for the goals of ``weight``, (rows, columns)."""
        missing = self._lacking if self._of_outputs else weight @ self._lacking
        return Moments(whole(self._squares), missing)


class Moments(NamedTuple):
    """What the goals of weights are found from.

    hessian: Σ x̂ x̂ᵀ, (columns, columns); missing: Σ d x̂ᵀ, d what the outputs lack, (rows, columns).
    """

    hessian: Tensor
    missing: Tensor

    def both(self, other: "Moments") -> "Moments":
        """Those of both texts."""
        return Moments(self.hessian + other.hessian, self.missing + other.missing)

    def every(self, step: int) -> "Moments":
        """Those of every so many-th row of the weights."""
        return Moments(self.hessian, self.missing[::step])

    def move(self, ridge: float) -> Tensor:
        """How to change weights to give the original's output, (rows, columns), by least squares.

        ridge: of the mean square of the inputs, how strongly they hold on to where they are.
        """
        held = ridge * self.hessian.diagonal().mean()
        held = held if held > 0 else torch.ones_like(held)  # all inputs zero: nothing moves
        ridged = self.hessian.clone()
        ridged.diagonal().add_(held)
        lower = torch.linalg.cholesky(ridged)
        return torch.cholesky_solve(self.missing.T, lower).T

    def error(self, move: Tensor) -> float:
        """How far weights that were moved are from the original's output, squared, less a constant.

        On the text that was counted here; ``move`` may come from another.
        """
        slope = torch.addmm(self.missing, move, self.hessian, beta=-2)
        return float(slope.mul_(move).sum(dtype=torch.float64))


def best_ridge(*kinds: Moments) -> float:
    """The one of RIDGES with which moves from one kind of text serve the other best.

    kinds: the moments over two kinds.
    """
    step = max(1, len(kinds[0].missing) // JUDGES)
    judges = [kind.every(step) for kind in kinds]

    @cache
    def error(ridge: float) -> float:
        moves = [kind.move(ridge) for kind in judges]
        return sum(map(Moments.error, judges, reversed(moves)))

    return _downhill(RIDGES, error)


def add_squares(total: Tensor, values: Tensor) -> None:
    """Add Σ v vᵀ over values (tokens, width) to ``total``, (width, width), until it is ``whole``.

    One half is the other's mirror image: what lies below the blocks on the diagonal is left out.
    """
    for start in range(0, len(total), BLOCK):
        rows = total[start : start + BLOCK, start:]
        rows.addmm_(values[:, start : start + BLOCK].T, values[:, start:])


def whole(total: Tensor) -> Tensor:
    """What ``add_squares`` summed, with both halves, in place."""
    for start in range(0, len(total), BLOCK):
        own, behind = slice(start, start + BLOCK), slice(start + BLOCK, None)
        total[behind, own] = total[own, behind].T
    return total


def _downhill(values: Sequence[float], error: Callable[[float], float]) -> float:
    """The value of the least error, found from the middle: it falls to there from both sides."""
    at = len(values) // 2
    step = 1 if error(values[at + 1]) < error(values[at]) else -1
    while 0 <= at + step < len(values) and error(values[at + step]) < error(values[at]):
        at += step
    return values[at]


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Products of float32 matrices within: "highest", or "medium" for factors in bfloat16.

    Sums are float32 in both. Where the processor multiplies bfloat16 no faster, "medium" changes
    nothing.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
