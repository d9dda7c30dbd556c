"""A figure of a benchmark's record: one panel a metric, one bar a contestant."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.pareto import COLORS

RATES = ("a second", "MB/s")  # in a metric's title: the longer the bar the better
PEERS = {**COLORS, "PyTorch": "#8250df", "sentence-transformers": "#8250df", "copy": "#8c959f"}


def short(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def bars(record: Mapping, metrics: Sequence[str], floors: Mapping[str, float], path: Path) -> None:
    """Medians of all rounds as an SVG file, with the least and the largest as whiskers."""
    samples = record["samples"]
    size = (2.4 + 2.6 * len(metrics), 0.9 + 0.3 * len(samples))
    figure, panels = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        _panel(axes, samples, metric, floors.get(metric))
        title = record["metrics"][metric]
        better = "more is better" if any(rate in title for rate in RATES) else "less is better"
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(better, fontsize=8)
    panels[0, 0].set_yticks(range(len(samples)), samples)
    panels[0, 0].invert_yaxis()
    figure.suptitle(record["title"], x=0.01, ha="left", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(axes: Axes, samples: Mapping[str, list[dict]], metric: str, floor: float | None) -> None:
    rows = {name: [run[metric] for run in runs if metric in run] for name, runs in samples.items()}
    middles = {name: median(values) for name, values in rows.items() if values}
    # one contestant that is far off must not flatten all others
    limit = 1.3 * min(max(map(max, filter(None, rows.values()))), 3 * median(middles.values()))
    for row, (name, values) in enumerate(rows.items()):
        if name not in middles:
            continue
        middle, end = middles[name], min(max(values), 0.8 * limit)
        spread = [[middle - min(values)], [max(values) - middle]]
        whisker = {} if middle > limit else {"xerr": spread, "ecolor": "#24292f"}
        axes.barh(row, middle, color=_color(name), height=0.7, **whisker)
        axes.annotate(
            f"{short(middle)}{' →' if middle > limit else ''}", (end, row), (4, 0),
            textcoords="offset points", va="center", fontsize=7,
            color="white" if middle > limit else "black",
        )  # fmt: skip
    axes.set_xlim(0, limit)
    if floor is not None:
        axes.axvline(floor, color="#cf222e", linewidth=1, label=f"floor by bandwidth: {floor:.2g}")
        axes.legend(frameon=False, fontsize=7, loc="center right")


def _color(contestant: str) -> str:
    """A runtime's; what names none is ours."""
    named = (color for name, color in PEERS.items() if contestant.startswith(name))
    return next(named, COLORS["llmkg-lab"])
