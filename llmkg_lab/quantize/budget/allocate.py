"""The best layouts that fit a number of bytes: a multiple-choice knapsack.

Each matrix takes one of its options. On the lower convex hull of every matrix's options, steps
are taken in the order of the divergence that a byte removes: that is optimal wherever a step
ends, and bounds from below what any choice can reach (Sinha and Zoltners, 1979, "The
multiple-choice knapsack problem"). What a budget leaves between two steps is then searched
exactly, among the few options that the bound does not rule out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmkg_lab.quantize.budget.options import Option, Sensitivities
from llmkg_lab.scheme import Layout, SchemeError

# Nats a token beyond which a model counts as broken rather than small: SmolLM2-135M then
# predicts text worse by a quarter to a third.
ACCEPTABLE = 0.3
STATES = 300  # partial choices kept at once in the exact search; beyond that it is a near one
MEGABYTE = 1_000_000
RESOLUTION = 1000  # bytes, to which the next gain is found
LEAST_GAIN = 1e-6  # of the divergence: less is none


@dataclass(frozen=True)
class Allocation:
    """The layouts chosen, by the name of the matrix."""

    layouts: dict[str, Layout]
    nbytes: int  # of the whole artifact, graph and data
    kl: float  # predicted, nats per token
    next_megabyte: float  # what another 10⁶ bytes would take off it
    next_gain_at: int | None  # bytes from which it falls, where the next megabyte brings nothing


class _Step(NamedTuple):
    """The step from one corner of a matrix's hull to the next."""

    slope: float  # divergence removed a byte
    matrix: int
    option: int  # that is reached
    nbytes: int  # more
    kl: float  # less


def allocate(sensitivities: Sensitivities, nbytes: int) -> Allocation:
    """The layouts of the least predicted divergence that fit into ``nbytes``.

    nbytes: of the whole artifact, its graph and its data file.
    Raises SchemeError where nothing fits, or where what fits is not an acceptable model; the hint
    is the smallest budget that gives one.
    """
    found = mix(sensitivities, nbytes)
    if found and found.kl <= ACCEPTABLE:
        return found
    points = np.array(frontier(sensitivities))
    if found is None:
        raise _refusal(nbytes, points, f"the smallest mix takes {points[0, 0] / 1e6:.1f} MB")
    raise _refusal(nbytes, points, f"the best mix is predicted to diverge by {found.kl:.2f} nats")


def mix(sensitivities: Sensitivities, nbytes: int) -> Allocation | None:
    """The same, acceptable or not; None where nothing fits."""
    mixes = _Mixes(sensitivities)
    return mixes.allocation(nbytes) if nbytes >= mixes.points()[0][0] else None


def frontier(sensitivities: Sensitivities) -> list[tuple[int, float]]:
    """Sizes (bytes) and predicted divergences (nats per token) of the best mixes, by size.

    Each point is one step from the last. No mix lies below the line through them; where a step is
    wide, as the table's is, those between its ends may lie well above.
    """
    return _Mixes(sensitivities).points()


def curve(sensitivities: Sensitivities, count: int = 60) -> list[tuple[int, float]]:
    """Budgets (bytes) at even distances, and the predicted divergence of the best mix in each.

    What ``mix`` answers, where ``frontier`` has the corners of the line that bounds it from below.
    """
    mixes = _Mixes(sensitivities)
    points = mixes.points()
    sizes = np.linspace(points[0][0], points[-1][0], count).astype(int).tolist()
    return [(nbytes, mixes.divergence(nbytes)) for nbytes in sizes]


class _Mixes:
    """The mixes that sensitivities allow."""

    def __init__(self, sensitivities: Sensitivities) -> None:
        self._names = list(sensitivities.matrices)
        self._fixed = sensitivities.fixed_bytes
        self._fronts = [_front(options) for options in sensitivities.matrices.values()]
        self._steps = _steps(self._fronts)

    def points(self) -> list[tuple[int, float]]:
        """The mixes as ``frontier`` returns them."""
        nbytes, kl = self._size([0] * len(self._fronts)), sum(f[0].kl for f in self._fronts)
        points = [(nbytes, kl)]
        for step in self._steps:
            nbytes, kl = nbytes + step.nbytes, kl - step.kl
            points.append((nbytes, kl))
        return points

    def divergence(self, nbytes: int) -> float:
        """What the best mix within ``nbytes`` is predicted to diverge by."""
        return _divergence(self._fronts, self._best(nbytes))

    def allocation(self, nbytes: int) -> Allocation:
        """The best mix within ``nbytes``, of which there is one, and what more would buy."""
        chosen = self._best(nbytes)
        kl = _divergence(self._fronts, chosen)
        gain = kl - _divergence(self._fronts, self._best(nbytes + MEGABYTE))
        layouts = [front[i].layout for front, i in zip(self._fronts, chosen, strict=True)]
        return Allocation(
            dict(zip(self._names, layouts, strict=True)),
            self._size(chosen),
            kl,
            max(gain, 0.0),
            None if gain > LEAST_GAIN * kl else self._next_gain(nbytes + MEGABYTE, kl),
        )

    def _next_gain(self, without: int, kl: float) -> int | None:
        """The bytes, above ``without`` to RESOLUTION, at which a mix diverges less."""
        largest = [len(front) - 1 for front in self._fronts]
        if kl - _divergence(self._fronts, largest) <= LEAST_GAIN * kl:
            return None
        enough = self._size(largest)
        while enough - without > RESOLUTION:
            tried = self._best((without + enough) // 2)
            if kl - _divergence(self._fronts, tried) > LEAST_GAIN * kl:
                enough = self._size(tried)
            else:
                without = (without + enough) // 2
        return enough

    def _best(self, nbytes: int) -> list[int]:
        return _choose(self._fronts, self._steps, nbytes - self._fixed)

    def _size(self, chosen: Sequence[int]) -> int:
        return self._fixed + sum(f[i].nbytes for f, i in zip(self._fronts, chosen, strict=True))


def _refusal(nbytes: int, points: np.ndarray, reason: str) -> SchemeError:
    """points: (points, 2), the frontier."""
    enough = points[points[:, 1] <= ACCEPTABLE]
    if not len(enough):
        hint = f"no mix stays within {ACCEPTABLE} nats per token: use int8 or int4"
    else:
        hint = f"budget:{np.ceil(enough[0, 0] / 1e5) / 10:g}MB is the smallest acceptable one"
    return SchemeError(f"a budget of {nbytes / 1e6:.1f} MB: {reason}", hint)


def _front(options: Sequence[Option]) -> list[Option]:
    """The options that no other one beats in both size and divergence, by size."""
    front: list[Option] = []
    for option in sorted(options, key=lambda option: (option.nbytes, option.kl)):
        if not front or option.kl < front[-1].kl:
            front.append(option)
    return front


def _steps(fronts: Sequence[Sequence[Option]]) -> list[_Step]:
    """The steps along all hulls, the one that removes most a byte first."""
    steps = [step for i, front in enumerate(fronts) for step in _hull(i, front)]
    return sorted(steps, key=lambda step: -step.slope)


def _hull(matrix: int, front: Sequence[Option]) -> Iterator[_Step]:
    """Steps of falling slope from the smallest option of a front to its best."""
    at = 0
    while at < len(front) - 1:
        here = front[at]
        slope, to = max(
            ((here.kl - o.kl) / (o.nbytes - here.nbytes), i) for i, o in enumerate(front) if i > at
        )
        yield _Step(slope, matrix, to, front[to].nbytes - here.nbytes, here.kl - front[to].kl)
        at = to


def _choose(fronts: Sequence[Sequence[Option]], steps: Sequence[_Step], room: int) -> list[int]:
    """The option of each front: together the least divergence within ``room`` bytes.

    The widest matrix, as a rule the table of embeddings, has steps of many megabytes, which no
    bound is near to. So each of its options is tried, and the rest chosen for it.
    """
    widest = max(range(len(fronts)), key=lambda i: fronts[i][-1].nbytes - fronts[i][0].nbytes)
    rest = [step for step in steps if step.matrix != widest]
    best, found = np.inf, [0] * len(fronts)
    for i, option in reversed(list(enumerate(fronts[widest]))):
        tried = [*fronts[:widest], [option], *fronts[widest + 1 :]]
        chosen, slope = _climb(tried, rest, room)
        if chosen is None:
            continue
        if slope is not None and _bound(tried, slope, room) < best:
            chosen = _search(tried, chosen, slope, room)
        kl = _divergence(tried, chosen)
        if kl < best:
            best, found = kl, [*chosen[:widest], i, *chosen[widest + 1 :]]
    return found


def _climb(
    fronts: Sequence[Sequence[Option]], steps: Sequence[_Step], room: int
) -> tuple[list[int] | None, float | None]:
    """Steps in their order as long as they fit, and the slope of the first that does not.

    None for the choice where even the smallest options take more than ``room`` bytes.
    """
    chosen = [0] * len(fronts)
    left = room - sum(front[0].nbytes for front in fronts)
    if left < 0:
        return None, None
    blocked: dict[int, float] = {}  # matrices whose next step does not fit, and its slope
    for step in steps:
        if step.matrix in blocked:
            continue
        if step.nbytes > left:
            blocked[step.matrix] = step.slope
            continue
        chosen[step.matrix] = step.option
        left -= step.nbytes
    return chosen, max(blocked.values(), default=None)


def _divergence(fronts: Sequence[Sequence[Option]], chosen: Sequence[int]) -> float:
    return sum(front[i].kl for front, i in zip(fronts, chosen, strict=True))


def _bound(fronts: Sequence[Sequence[Option]], slope: float, room: int) -> float:
    """No choice within ``room`` bytes diverges less; ``slope``: what a byte is priced at."""
    return sum(min(o.kl + slope * o.nbytes for o in front) for front in fronts) - slope * room


def _search(
    fronts: Sequence[Sequence[Option]], chosen: list[int], slope: float, room: int
) -> list[int]:
    """A better choice than ``chosen`` where there is one, by dynamic programming.

    With bytes priced at ``slope``, what each option costs beyond the cheapest of its matrix is
    its excess. A choice whose excesses add up to more than the gap between ``chosen`` and the
    bound cannot be better; that leaves most matrices with one option.
    """
    sizes = [np.array([option.nbytes for option in front]) for front in fronts]
    costs = [np.array([option.kl for option in front]) for front in fronts]
    priced = [kl + slope * nbytes for kl, nbytes in zip(costs, sizes, strict=True)]
    greedy = _divergence(fronts, chosen)
    gap = greedy - _bound(fronts, slope, room)
    gap += 1e-12 * (greedy + slope * room)  # for what float addition loses
    excess = [p - p.min() for p in priced]
    open_ = [i for i, e in enumerate(excess) if np.count_nonzero(e <= gap) > 1]
    least = [s[e <= gap].min() for s, e in zip(sizes, excess, strict=True)]
    spare = np.array([room - sum(least)])  # a state: bytes left if the rest takes its least,
    total, over = np.zeros(1), np.zeros(1)  # divergence so far, excess so far
    trail = []
    for i in open_:
        kept = np.flatnonzero(excess[i] <= gap)
        s = (spare[:, None] - (sizes[i][kept] - least[i])).ravel()
        k = (total[:, None] + costs[i][kept]).ravel()
        o = (over[:, None] + excess[i][kept]).ravel()
        states = np.flatnonzero((s >= 0) & (o <= gap))
        states = states[np.lexsort((k[states], -s[states]))]  # most room first
        best = np.minimum.accumulate(np.concatenate([[np.inf], k[states]]))
        states = states[k[states] < best[:-1]]  # else another has more room and diverges less
        if len(states) > STATES:
            states = states[np.sort(np.argsort(o[states], kind="stable")[:STATES])]
        spare, total, over = s[states], k[states], o[states]
        trail.append((states // len(kept), kept[states % len(kept)]))
    found = [int(np.argmin(e)) for e in excess]
    fixed = sum(costs[i][found[i]] for i in set(range(len(fronts))) - set(open_))
    if not len(total) or fixed + total.min() > greedy:  # not all states were kept
        return chosen
    state = int(np.argmin(total))
    for i, (parents, options) in zip(reversed(open_), reversed(trail), strict=True):
        found[i], state = int(options[state]), int(parents[state])
    return found
