"""The explorer's figures: drawn by matplotlib on any thread, shown as SVG within the page."""

import base64
import html
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from llmkg_lab.explorer.questions.grid import LEVELS, OUTSIDE, Cell
from llmkg_lab.explorer.questions.peers import OURS_THERE
from llmkg_lab.explorer.questions.points import OURS, Point, front
from llmkg_lab.explorer.questions.tensors import Lens
from llmkg_lab.explorer.view.style import ACCENT, DARK_FROM, FAINT, INK, LINE, MUTED, SHADES
from llmkg_lab.report import figures as _report  # noqa: F401  (sets the style that all figures share)
from llmkg_lab.report.labels import Label, place

WIDTH = 9.6  # inches; at 72 units an inch the page's own pixels
EXACT = 1e-5  # nats up to which an artifact computes what the original does
PEER_MARKS = ("s", "^", "D", "v", "P", "X")
DRAWING = threading.Lock()  # matplotlib's caches of fonts and glyphs serve one thread at a time
STYLE: Any = {
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Chart:
    """A drawn figure. ``place`` takes a point of its (first) axes to the SVG's coordinates."""

    svg: str
    width: float
    height: float
    alt: str  # what it shows, for those who do not see it
    box: tuple[float, float, float, float]  # left, top, right, bottom of the first axes
    place: Callable[[float, float], tuple[float, float]]

    def html(self) -> str:
        """An <img> that is as wide as its place; nothing is loaded from anywhere."""
        data = base64.b64encode(self.svg.encode()).decode()
        return f'<img alt="{html.escape(self.alt)}" src="data:image/svg+xml;base64,{data}">'

    def cursor(self, x: float, y: float | None, label: str) -> str:
        """An SVG to lay over the figure: a line at ``x``, a dot at ``y``, a label beside it."""
        left, top, right, bottom = self.box
        px = min(max(self.place(x, 1.0)[0], left), right)
        is_right = px > (left + right) / 2
        text = (
            f'<text x="{px + (-8 if is_right else 8):.1f}" y="{top + 12:.1f}" font-size="12" '
            f'text-anchor="{"end" if is_right else "start"}" fill="{ACCENT}" font-weight="600" '
            f'stroke="#fff" stroke-width="4" paint-order="stroke" '
            f'font-family="system-ui, sans-serif">{html.escape(label)}</text>'
        )
        dot = ""
        if y is not None:
            py = min(max(self.place(x, y)[1], top), bottom)
            dot = (
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="6" fill="{ACCENT}" stroke="#fff" '
                'stroke-width="2"/>'
            )
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" aria-hidden="true">'
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" '
            f'stroke="{ACCENT}" stroke-width="1.5"/>{dot}{text}</svg>'
        )


def frontier(
    predicted: Sequence[tuple[int, float]], measured: Sequence[Point], limit: float
) -> Chart:
    """Predicted divergence of the best mix by size, and what was measured.

    predicted: budgets and what the optimizer answers to each; limit: nats beyond which a budget is
    refused.
    """

    def draw(axes: Axes) -> None:
        sizes, kl = np.array(predicted).T
        style: dict[str, Any] = {"color": MUTED, "linewidth": 1.6}
        axes.plot(sizes / 1e6, kl, label="predicted, best mix", **style)
        axes.axhspan(limit, 100, color="#cf222e", alpha=0.06, linewidth=0)
        _measured(axes, measured)
        low, high = sizes.min() / 1e6, sizes.max() / 1e6
        pad = 0.03 * (high - low)
        inside = [p for p in measured if low - pad <= p.nbytes / 1e6 <= high + pad]
        values = [*kl, *(point.kl for point in inside)]
        _log_kl(axes, values)
        axes.set(xlim=(low - pad, high + pad), xlabel="graph and weights, MB (10⁶ bytes)")
        if axes.get_ylim()[1] > limit:
            axes.annotate(
                f"predicted beyond {limit:g} nats, a budget is refused",
                (1, limit),
                (-4, 4),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color="#a40e26",
            )
        _legend(axes)

    alt = f"Predicted KL divergence by size, {len(measured)} measured artifacts"
    return _chart(draw, 3.3, alt)


def pareto(ours: Sequence[Point], peers: Sequence[Point]) -> Chart:
    """Bytes against divergence of all that was measured; the line joins what nothing beats.

    Floating point has no divergence and several times the bytes: it would crush the rest, and is
    left to the table.
    """
    ours, peers = ([p for p in side if p.kl > EXACT] for side in (ours, peers))

    def draw(axes: Axes) -> None:
        everything = [*ours, *peers]
        best = front(everything)
        axes.plot([p.nbytes / 1e6 for p in best], [p.kl for p in best], color=LINE, zorder=1)
        for i, maker in enumerate(dict.fromkeys(point.maker for point in peers)):
            theirs = [point for point in peers if point.maker == maker]
            sizes, kl = [p.nbytes / 1e6 for p in theirs], [p.kl for p in theirs]
            if maker == OURS_THERE:
                style: dict[str, Any] = {"marker": "o", "color": ACCENT, "markerfacecolor": "white"}
            else:
                style = {"marker": PEER_MARKS[i % len(PEER_MARKS)], "color": MUTED}
            axes.plot(sizes, kl, linestyle="", markersize=5.5, label=maker, **style)
        _measured(axes, ours, OURS)
        _log_kl(axes, [point.kl for point in everything])
        axes.set_xlabel("graph and weights, MB (10⁶ bytes)")
        axes.margins(x=0.08)
        _legend(axes)
        _labels(axes, everything)

    return _chart(draw, 5.2, f"{len(ours)} own and {len(peers)} peers' artifacts: size against KL")


def heat_map(
    cells: Sequence[Cell], shades: Mapping[str, int], bits: Mapping[str, int], label: str
) -> Chart:
    """Sensitivity by layer and kind of matrix; in each cell the bits that a budget gave it."""
    kinds = list(dict.fromkeys(cell.kind for cell in cells))
    last = max((cell.layer for cell in cells), default=0)

    def draw(axes: Axes) -> None:
        values = np.full((len(kinds), last + 2), np.nan)
        for cell in cells:
            row, column = kinds.index(cell.kind), cell.layer + 1
            values[row, column] = shades.get(cell.name, np.nan)
            if bit := bits.get(cell.name):
                dark = shades.get(cell.name, 0) >= DARK_FROM
                color = "#ffffff" if dark else INK
                axes.text(column, row, str(bit), ha="center", va="center", color=color, fontsize=8)
        axes.imshow(values, ListedColormap(SHADES), vmin=0, vmax=LEVELS, aspect="auto")
        axes.set(yticks=range(len(kinds)), yticklabels=kinds, xlabel="layer", title=label)
        columns = range(0, last + 2, max(1, (last + 2) // 16))
        names = ["none" if c - 1 == OUTSIDE else str(c - 1) for c in columns]
        axes.set_xticks(list(columns), names)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)

    height = 0.9 + 0.3 * len(kinds)
    return _chart(draw, height, "Sensitivity by layer and matrix; the bits that each was given")


def histograms(lens: Lens) -> Chart:
    """How weights spread, and how far storing moved them."""

    def draw(weights: Axes, errors: Axes) -> None:
        for axes, counts, edges, color in (
            (weights, lens.weights, lens.weight_edges, MUTED),
            (errors, lens.errors, lens.error_edges, ACCENT),
        ):
            axes.stairs(np.maximum(counts, 0.5), edges, fill=True, color=color, baseline=0.5)
            axes.set_yscale("log")
            axes.set(ylabel="weights a bin", ylim=(0.5, None))
        weights.set(title="Weights", xlabel="value")
        errors.set(title="Weight − stored", xlabel="value")

    return _chart(draw, 2.7, f"Histograms of {lens.name} and of its error", panels=2)


def _measured(axes: Axes, points: Sequence[Point], label: str = "measured") -> None:
    if not points:
        return
    sizes = [point.nbytes / 1e6 for point in points]
    kl = np.array([max(point.kl, 1e-9) for point in points])
    low = [p.kl - p.low if p.low is not None else 0 for p in points]
    high = [p.high - p.kl if p.high is not None else 0 for p in points]
    spread = np.maximum([low, high], 0)
    style: dict[str, Any] = {"fmt": "o", "color": ACCENT, "markersize": 6, "elinewidth": 1.2}
    axes.errorbar(sizes, kl, yerr=spread, label=label, zorder=3, **style)


def _log_kl(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of divergences, with plain numbers at its ticks."""
    positive = [value for value in values if value > 0] or [1e-3, 1]
    axes.set_yscale("log")
    axes.set_ylim(min(positive) / 1.6, max(positive) * 1.8)
    axes.set_ylabel("KL divergence, nats per token")
    decades = np.log10(max(positive) / min(positive))
    steps = (1.0,) if decades > 2 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True)


def _legend(axes: Axes) -> None:
    """Above the axes, where no marker of it can be taken for a point."""
    columns = len(axes.get_legend_handles_labels()[0])
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axes.legend(frameon=False, fontsize=8.5, ncols=columns, **place)


def _labels(axes: Axes, points: Sequence[Point]) -> None:
    """Names beside the points, ours first: where there is no room, the table has them."""
    ours = (OURS, OURS_THERE)
    named = [
        Label(point.nbytes / 1e6, max(point.kl, 1e-9), point.label, ACCENT if own else MUTED)
        for point in sorted(points, key=lambda p: (p.maker not in ours, p.nbytes, p.kl))
        for own in (point.maker in ours,)
    ]
    place(axes, named, size=8)


def _chart(draw: Callable[..., None], height: float, alt: str, panels: int = 1) -> Chart:
    with DRAWING, mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=72)
        axes = np.atleast_1d(figure.subplots(1, panels))
        draw(*axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        transform = axes[0].transData.frozen()
        extent = axes[0].get_window_extent()
    total = 72 * height

    def place(x: float, y: float) -> tuple[float, float]:
        px, py = transform.transform((x, y))
        return float(px), total - float(py)

    box = (extent.x0, total - extent.y1, extent.x1, total - extent.y0)
    return Chart(file.getvalue(), 72 * WIDTH, total, alt, box, place)
