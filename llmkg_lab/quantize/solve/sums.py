"""What a matrix is solved from: sums over the tokens of a text, whatever its length."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

# Of the mean square of the inputs: how strongly a goal holds on to the weights.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)


class Sums:
    """Second moments of what goes into a matrix in the quantized model, and what it is to mend.

    hessian: Σ x̂ x̂ᵀ, (columns, columns), x̂ the input in the quantized model; shift: Σ (x - x̂) x̂ᵀ,
    x the original's; gap: Σ g x̂ᵀ, (rows, columns), g what the output is to make up for besides.
    """

    def __init__(self) -> None:
        self.hessian = self.shift = torch.zeros(0)
        self.gap: Tensor | None = None

    def add(self, original: Tensor, quantized: Tensor, gap: Tensor | None = None) -> None:
        """Count tokens in: inputs (…, columns) in both models, gap (…, rows)."""
        x, y = original.flatten(0, -2), quantized.flatten(0, -2)
        if not len(self.hessian):
            self.hessian, self.shift = y.new_zeros(2, y.shape[1], y.shape[1])
        self.hessian.addmm_(y.T, y)
        self.shift.addmm_((x - y).T, y)
        if gap is not None:
            g = gap.flatten(0, -2)
            if self.gap is None:
                self.gap = y.new_zeros(g.shape[1], y.shape[1])
            self.gap.addmm_(g.T, y)

    def __add__(self, other: "Sums") -> "Sums":
        """What both counted."""
        total = Sums()
        total.hessian, total.shift = self.hessian + other.hessian, self.shift + other.shift
        if self.gap is not None and other.gap is not None:
            total.gap = self.gap + other.gap
        return total

    def missing(self, weight: Tensor) -> Tensor:
        """What the quantized model's outputs lack, Σ (w x - w x̂ + g) x̂ᵀ, (rows, columns)."""
        lost = weight @ self.shift
        return lost if self.gap is None else lost.add_(self.gap)

    def move(self, missing: Tensor, ridge: float) -> Tensor:
        """How to change weights to give the original's output, (rows, columns), by least squares.

        missing: of those weights; ridge: of the mean square of the inputs, how strongly they hold
        on to where they are.
        """
        held = ridge * self.hessian.diagonal().mean()
        held = held if held > 0 else torch.ones_like(held)  # all inputs zero: nothing moves
        ridged = self.hessian.clone()
        ridged.diagonal().add_(held)
        lower = torch.linalg.cholesky(ridged)
        return torch.cholesky_solve(missing.T, lower).T

    def error(self, missing: Tensor, move: Tensor) -> float:
        """How far weights that were moved are from the original's output, squared, less a constant.

        On the text that was counted here; ``move`` may come from another.
        """
        slope = torch.addmm(missing, move, self.hessian, beta=-2)
        return float(slope.mul_(move).sum(dtype=torch.float64))


def goals(weights: Sequence[Tensor], kinds: "tuple[Sums, Sums]") -> tuple[Tensor, float]:
    """The goals of matrices that read the same inputs, and the ridge that they were found with.

    weights: (rows, columns) each; kinds: the sums over two kinds of text. The ridge is the one
    of RIDGES with which goals from one kind serve the other best; the goals, (all rows, columns),
    are then those of both kinds together.
    """
    stacked = torch.cat(list(weights))
    lacks = [kind.missing(stacked) for kind in kinds]

    @cache
    def error(ridge: float) -> float:
        moves = [kind.move(lack, ridge) for kind, lack in zip(kinds, lacks, strict=True)]
        return sum(map(Sums.error, kinds, lacks, reversed(moves)))

    best = _downhill(RIDGES, error)
    return stacked.add_((kinds[0] + kinds[1]).move(lacks[0] + lacks[1], best)), best


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
