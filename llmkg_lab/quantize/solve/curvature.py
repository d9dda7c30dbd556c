"""How much a model's predictions mind errors at the outputs of each matrix.

To second order, the divergence that an error e of a matrix's output causes at a token is ½ eᵀ F e,
F the Fisher information of what is predicted there (Amari, 1998). With p the predictions and J the
way from the output to the logits, F = Jᵀ (diag(p) - p pᵀ) J, so that a slope

    g = Jᵀ (√p ε - p √pᵀε),  ε normal,

has F as its mean g gᵀ: one pass forward and one back over some text, and no token to be drawn,
which the last digit of a logit would decide. Sums over tokens leave out how errors at different
tokens meet. A few tokens have slopes a thousand times as steep, the first of a text above all,
whose keys all others see; each counts as at most CLIP usual ones.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from llmkg_lab.base.progress import Counter, Progress, silent
from llmkg_lab.models.base import Form, Unit
from llmkg_lab.quantize.solve.coupled import WIDEST, Group
from llmkg_lab.quantize.solve.layerwise import LayerwiseLlama
from llmkg_lab.quantize.solve.streams import Spilled, chunks
from llmkg_lab.quantize.solve.sums import products

AT_ONCE = 1024  # tokens that pass a layer together
PREDICTED = 128  # tokens whose logits are in memory together
CLIP = 10  # times the median of the slopes' squares
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
        self._found: dict[str, list[tuple[np.ndarray, int]]] = {}  # rows, place in the file

    def groups(self, unit: Unit) -> list[Group]:
        """The outputs of a unit, its parts stacked; after ``find``."""
        found = []
        for rows, place in self._found[unit.name]:
            self._file.seek(place)
            found.append(Group(rows, np.load(self._file)))
        return found

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()

    def find(self, net: LayerwiseLlama, progress: Progress = silent) -> None:
        """Send the text through the model, forward and back, if that was not done yet."""
        if self._found:
            return
        steps = Counter(progress, "curvature", "steps", (1 + BACK) * len(net.layers))
        spilled = Spilled(self._windows.shape[1], net.table.shape[1])
        with closing(spilled) as states, products("medium"):
            self._forward(net, states, steps)
            self._found = dict(self._back(net, states, steps))

    @torch.no_grad()
    def _forward(self, net: LayerwiseLlama, states: Spilled, steps: Counter) -> None:
        """Keep what goes into each layer, and what the last one gives."""
        for part in self._chunks():
            states.write(self._at(0, part), net.embed(self._windows[part]))
        for i in range(len(net.layers)):
            for part in self._chunks():
                states.write(self._at(i + 1, part), net.run(i, states.read(self._at(i, part))))
            steps.advance()

    def _back(
        self, net: LayerwiseLlama, states: Spilled, steps: Counter
    ) -> Iterator[tuple[str, list[tuple[np.ndarray, int]]]]:
        """Units by name, and where the sums of their groups lie."""
        layers, random = len(net.layers), torch.Generator().manual_seed(SEED)
        last = (states.read(self._at(layers, part)) for part in self._chunks())
        slopes = torch.cat([_slopes(net, x, random) for x in last])  # (windows, tokens, hidden)
        for i in reversed(range(layers)):
            units = [unit for unit in self._form.units() if unit.layer == i]
            sums = {unit.name: _Sums(net, unit) for unit in units}
            for part in self._chunks():
                before = states.read(self._at(i, part))
                slopes[part], passed = net.back(i, before, slopes[part])
                for unit in units:
                    sums[unit.name].add([passed[name].gradient for name in unit.parts])
            yield from ((name, self._keep(own)) for name, own in sums.items())
            steps.advance(BACK)

    def _at(self, i: int, part: slice) -> slice:
        """Where the states before layer ``i`` lie."""
        start = i * len(self._windows)
        return slice(start + part.start, start + part.stop)

    def _keep(self, sums: "_Sums") -> list[tuple[np.ndarray, int]]:
        places = []
        for group in sums.groups:
            self._file.seek(0, 2)
            places.append((group.rows, self._file.tell()))
            np.save(self._file, group.gram)
        return places

    def _chunks(self) -> Iterator[slice]:
        return chunks(len(self._windows), self._windows.shape[1], AT_ONCE)


class _Sums:
    """Σ g gᵀ at the outputs of one unit."""

    def __init__(self, net: LayerwiseLlama, unit: Unit) -> None:
        modules = dict(net.linears(unit.layer))
        counts = [modules[name].out_features for name in unit.parts]
        self.groups = [
            Group(rows, np.zeros((len(rows), len(rows)), np.float32)) for rows in _together(counts)
        ]

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Count tokens in; gradients: (windows, tokens, rows) of each part."""
        stacked = torch.cat(list(gradients), -1).flatten(0, 1)  # (tokens, rows)
        squares = stacked.square().sum(1, keepdim=True)
        usual = CLIP * squares.median()
        even = stacked * torch.where(squares > usual, usual / squares, 1).sqrt()
        for rows, gram in self.groups:
            own = even[:, torch.from_numpy(rows)]
            torch.from_numpy(gram).addmm_(own.T, own)


def _together(counts: Sequence[int]) -> list[np.ndarray]:
    """The rows of stacked matrices in groups of at most WIDEST, each with a share of each matrix.

    So that gates stay with what they let through, and queries with their keys.
    """
    starts = np.cumsum([0, *counts])
    parts = -(-int(starts[-1]) // WIDEST)
    shares = [np.array_split(np.arange(*ends), parts) for ends in pairwise(starts)]
    return [np.concatenate(share) for share in zip(*shares, strict=True)]


@torch.no_grad()
def _slopes(net: LayerwiseLlama, states: Tensor, random: torch.Generator) -> Tensor:
    """The slopes at what the last layer gives, (windows, tokens, hidden)."""
    found = []
    for piece in states.flatten(0, 1).split(PREDICTED):
        predictions = net.logits(piece).softmax(-1)  # (tokens, vocab)
        drawn = predictions.sqrt() * torch.randn(predictions.shape, generator=random)
        drawn -= predictions * drawn.sum(-1, keepdim=True)
        with torch.enable_grad():
            before = piece.clone().requires_grad_()
            found += torch.autograd.grad(net.norm(before), before, drawn @ net.head.weight)
    return torch.cat(found).view_as(states)
