"""How much a model's predictions mind errors at the outputs of each matrix.

To second order, the divergence that an error e of a matrix's output causes at a token is ½ eᵀ F e,
F the Fisher information of what is predicted there (Amari, 1998). With p the predictions and J the
way from the output to the logits, F = Jᵀ (diag(p) - p pᵀ) J, so that a slope

    g = Jᵀ (√p ε - p √pᵀε),  ε of random signs,

has F as its mean g gᵀ: one pass forward and one back over some text, and no token to be drawn,
which the last digit of a logit would decide. Sums over tokens leave out how errors at different
tokens meet. A few tokens have slopes a thousand times as steep, the first of a text above all,
whose keys all others see; each counts as at most CLIP usual ones.

How steep a token's slopes are also says how much the matrix's inputs there count (as in
GuidedQuant, Kim et al., 2025, arXiv:2505.07004): ``counts``, at most COUNTED usual ones.
"""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise, starmap
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llmkg_lab.base.progress import Counter, Progress, silent
from llmkg_lab.models.base import Form, Unit
from llmkg_lab.quantize.solve.coupled import WIDEST, Group
from llmkg_lab.quantize.solve.device import CPU
from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama
from llmkg_lab.quantize.solve.streams import Spilled, chunks
from llmkg_lab.quantize.solve.sums import add_squares, products, whole

AT_ONCE = 1024  # tokens that pass a layer together
KEPT = 32768  # tokens whose states lie on the disk together
PREDICTED = 128  # tokens whose logits are in memory together
CLIP, COUNTED = 10, 3  # times the median of the slopes' squares
SEED = 0
BACK = 3  # what a layer takes on the way back, as multiples of the way forward


class Curvature:
    """Σ g gᵀ at the outputs of all matrices.

    Lies in a temporary file, as there are some hundred megabytes of it, until it is closed.
    """

    def __init__(self, form: Form, windows: np.ndarray) -> None:
        """windows: token ids (n, tokens) int64 of calibration text."""
        self._form = form
        self._windows = windows
        self._file = tempfile.TemporaryFile(prefix="llmkg-lab-")  # noqa: SIM115  # closed by close
        self._found: dict[str, _Found] = {}

    def groups(self, unit: Unit) -> list[Group]:
        """The outputs of a unit, its parts stacked; after ``find``."""
        found = self._found[unit.name]
        pairs = zip(found.shares, self._read(found), strict=True)
        return [Group(_stacked(found.counts, share), whole(gram).numpy()) for share, gram in pairs]

    def counts(self, unit: Unit) -> Tensor:
        """How much each token's outputs count, (windows, tokens), 1 on average; after ``find``."""
        squares = self._found[unit.name].squares
        even = squares.clamp(max=COUNTED * squares.median())
        return even / even.mean()

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()

    def find(self, net: LayerwiseLlama, progress: Progress = silent) -> None:
        """Send the text through the model, forward and back, if that was not done yet."""
        if self._found:
            return
        tokens, width = self._windows.shape[1], net.table.shape[1]
        parts = list(chunks(len(self._windows), tokens, KEPT))
        steps = Counter(progress, "curvature", "steps", (1 + BACK) * len(net.layers) * len(parts))
        random = torch.Generator(net.device).manual_seed(SEED)
        units = [unit for unit in self._form.units() if unit.layer >= 0]
        found = {unit.name: self._begin(net, unit) for unit in units}
        for part in parts:
            windows = self._windows[part]
            with closing(Spilled(tokens, width, net.device)) as states, products("medium"):
                _forward(net, windows, states, steps)
                self._back(net, states, part, random, found, steps)
        self._found = found

    def _back(
        self,
        net: LayerwiseLlama,
        states: Spilled,
        windows: slice,
        random: torch.Generator,
        found: "dict[str, _Found]",
        steps: Counter,
    ) -> None:
        """Add to ``found``, by unit, what the slopes of some windows say."""
        count, layers = windows.stop - windows.start, len(net.layers)
        parts = list(chunks(count, self._windows.shape[1], AT_ONCE))
        last = (states.read(_at(layers, count, part)) for part in parts)
        slopes = torch.cat([_slopes(net, x, random) for x in last])  # (windows, tokens, hidden)
        for i in reversed(range(layers)):
            units = [unit for unit in self._form.units() if unit.layer == i]
            sums = {unit.name: self._read(found[unit.name], net.device) for unit in units}
            for part in parts:
                slopes[part], passed = net.back(i, states.read(_at(i, count, part)), slopes[part])
                for unit in units:
                    gradients = [passed[name].gradient for name in unit.parts]
                    own = found[unit.name]
                    squares = _add(own.shares, sums[unit.name], gradients)
                    own.squares[windows][part] = squares.cpu()
            for unit in units:
                self._write(found[unit.name], sums[unit.name])
            steps.advance(BACK)

    def _begin(self, net: LayerwiseLlama, unit: Unit) -> "_Found":
        """A unit of which nothing was counted yet."""
        modules = dict(net.linears(unit.layer))
        counts = [modules[name].out_features for name in unit.parts]
        shares, places = _shares(counts), []
        for share in shares:
            rows = len(_stacked(counts, share))
            places.append(self._file.seek(0, 2))
            np.save(self._file, np.zeros((rows, rows), np.float32))
        return _Found(counts, shares, places, torch.empty(self._windows.shape))

    def _read(self, found: "_Found", device: str = CPU) -> list[Tensor]:
        """The sums of each group, (rows, rows)."""
        grams = []
        for place in found.places:
            self._file.seek(place)
            grams.append(torch.from_numpy(np.load(self._file)).to(device))
        return grams

    def _write(self, found: "_Found", grams: Sequence[Tensor]) -> None:
        for gram, place in zip(grams, found.places, strict=True):
            self._file.seek(place)
            np.save(self._file, gram.cpu().numpy())


Share = Sequence[slice]  # of the outputs of each part of a unit, those that are in one group


class _Found(NamedTuple):
    """What is known of a unit: its outputs in groups, where the sums of each lie, and tokens."""

    counts: list[int]  # of the outputs of each part
    shares: list[Share]
    places: list[int]  # in the file
    squares: Tensor  # of the tokens' slopes, (windows, tokens); small pieces would split the heap


def _at(i: int, count: int, part: slice) -> slice:
    """Where the states of ``count`` windows before layer ``i`` lie."""
    return slice(i * count + part.start, i * count + part.stop)


@torch.no_grad()
def _forward(net: LayerwiseLlama, windows: np.ndarray, states: Spilled, steps: Counter) -> None:
    """Keep what goes into each layer, and what the last one gives."""
    count = len(windows)
    parts = list(chunks(count, windows.shape[1], AT_ONCE))
    for part in parts:
        states.write(_at(0, count, part), net.embed(windows[part]))
    for i in range(len(net.layers)):
        for part in parts:
            after = net.run(i, states.read(_at(i, count, part)))
            states.write(_at(i + 1, count, part), after)
        steps.advance()


def _add(shares: Sequence[Share], grams: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Count tokens in; returns the squares of their slopes, (windows, tokens).

    shares, grams: the groups of a unit, and their sums; gradients: (windows, tokens, rows) of each
    part of the unit.
    """
    norms = [torch.linalg.vector_norm(part, dim=-1) for part in gradients]
    squares = torch.stack(norms).square_().sum(0)
    usual = CLIP * squares.median()
    factors = torch.where(squares > usual, usual / squares, 1).sqrt_()[..., None]
    for share, gram in zip(shares, grams, strict=True):
        pieces = [part[..., own] for part, own in zip(gradients, share, strict=True)]
        even = torch.cat(pieces, -1).mul_(factors).flatten(0, 1)  # (tokens, rows)
        add_squares(gram, even)
    return squares


def _shares(counts: Sequence[int]) -> list[Share]:
    """The rows of several matrices in groups of at most WIDEST, each with a share of each matrix.

    So that gates stay with what they let through, and queries with their keys.
    """
    groups = -(-sum(counts) // WIDEST)
    ends = [[count * i // groups for i in range(groups + 1)] for count in counts]
    return list(zip(*(list(starmap(slice, pairwise(own))) for own in ends), strict=True))


def _stacked(counts: Sequence[int], share: Share) -> np.ndarray:
    """Where a group's rows lie among those of all matrices."""
    starts = np.cumsum([0, *counts[:-1]])
    pairs = zip(starts, share, strict=True)
    return np.concatenate([np.arange(start + own.start, start + own.stop) for start, own in pairs])


@torch.no_grad()
def _slopes(net: LayerwiseLlama, states: Tensor, random: torch.Generator) -> Tensor:
    """The slopes at what the last layer gives, (windows, tokens, hidden)."""
    found = []
    for piece in states.flatten(0, 1).split(PREDICTED):
        predictions = net.logits(piece).softmax(-1)  # (tokens, vocab)
        drawn = torch.copysign(predictions.sqrt(), _signs(predictions, random))
        drawn.addcmul_(predictions, drawn.sum(-1, keepdim=True), value=-1)
        with torch.enable_grad():
            before = piece.clone().requires_grad_()
            found += torch.autograd.grad(net.norm(before), before, drawn @ net.head.weight)
    return torch.cat(found).view_as(states)


def _signs(like: Tensor, random: torch.Generator) -> Tensor:
    """Numbers of the shape of ``like`` of which nothing counts but their signs, drawn evenly.

    Each integer gives 32, moved to the place of the sign one by one.
    """
    count, bits = like.numel(), torch.arange(32, dtype=torch.int32, device=like.device)
    drawn = torch.empty(-(-count // 32), 1, dtype=torch.int32, device=like.device)
    drawn.random_(-(2**31), 2**31, generator=random)
    return (drawn << bits).view(torch.float32).flatten()[:count].view_as(like)
