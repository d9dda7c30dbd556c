"""The figure of bytes against divergence."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.axes import Axes

from llmkg_lab.report import figures, labels  # figures sets the style  # noqa: F401
from llmkg_lab.report.labels import Label

COLORS = {"llmkg-lab": "#bc4c00", "llama.cpp": "#0969da", "onnxruntime-genai": "#57606a"}
MARKERS = {"llmkg-lab": "o", "llama.cpp": "s", "onnxruntime-genai": "^"}
MATRIX = " imatrix"  # how the names of what had an importance matrix end
GAP = 15  # MB without a model: the axis leaves them out


def draw(points: Sequence[dict], path: Path) -> None:
    """Points of quality.json as an SVG file: lower left is better."""
    groups = list(_groups(sorted(points, key=_megabytes)))
    widths = [_megabytes(group[-1]) - _megabytes(group[0]) + 6 for group in groups]
    figure, panels = plt.subplots(
        1, len(groups), figsize=(9, 5.4), sharey=True, squeeze=False, width_ratios=widths
    )
    low, high = (pick(p["kl"]["value"] for p in points) for pick in (min, max))
    panels[0, 0].set(yscale="log", ylim=(low / 1.6, high * 1.6), ylabel="KL, nats per token")
    panels[0, 0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panels[0, 0].yaxis.set_minor_formatter(ticker.NullFormatter())
    panels[0, 0].yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
    best = _unbeaten(points)
    for axes, group in zip(panels[0], groups, strict=True):
        axes.set_xlim(_megabytes(group[0]) - 4, _megabytes(group[-1]) + 5)
        axes.xaxis.set_major_locator(ticker.MultipleLocator(5))
        axes.plot(
            [_megabytes(p) for p in best], [p["kl"]["value"] for p in best],
            color="#d0d7de", linewidth=1.2, zorder=0, label="nothing smaller is better",
        )  # fmt: skip
        _scatter(axes, points)
    figure.supxlabel("MB (10⁶ bytes) of weights and graph", fontsize=10)
    title = "What the bytes buy: SmolLM2-135M-Instruct, 95 % intervals"
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, ncols=3, frameon=False, fontsize=8, loc="upper left",
        bbox_to_anchor=(0.02, 0.95),
    )  # fmt: skip
    figure.set_layout_engine("tight", rect=(0, 0, 1, 0.9), w_pad=0.3)
    for axes, group in zip(panels[0], groups, strict=True):
        labels.place(axes, [_label(point) for point in group])
    for axes in panels[0, 1:]:  # a gap in the axis
        axes.spines["left"].set_linestyle((0, (2, 3)))
        axes.tick_params(axis="y", which="both", length=0)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _megabytes(point: dict) -> float:
    return point["bytes"] / 1e6


def _label(point: dict) -> Label:
    name, color = point["name"].removesuffix(MATRIX), COLORS[point["runtime"]]
    return Label(_megabytes(point), point["kl"]["value"], name, color)


def _groups(points: Sequence[dict]) -> Iterator[list[dict]]:
    """Points by size, cut where there is nothing for long."""
    first = 0
    for i in range(1, len(points)):
        if _megabytes(points[i]) - _megabytes(points[i - 1]) > GAP:
            yield list(points[first:i])
            first = i
    yield list(points[first:])


def _unbeaten(points: Sequence[dict]) -> list[dict]:
    best: list[dict] = []
    for point in sorted(points, key=lambda point: (point["bytes"], point["kl"]["value"])):
        if not best or point["kl"]["value"] < best[-1]["kl"]["value"]:
            best.append(point)
    return best


def _scatter(axes: Axes, points: Sequence[dict]) -> None:
    for runtime, color in COLORS.items():
        own = [point for point in points if point["runtime"] == runtime]
        with_matrix = [point for point in own if point["name"].endswith(MATRIX)]
        plain = [point for point in own if point not in with_matrix]
        for some, label, face in (
            (plain, runtime, color),
            (with_matrix, f"{runtime} with importance matrix", "white"),
        ):
            if some:
                kl = [point["kl"] for point in some]
                below = [k["value"] - k["low"] for k in kl]
                above = [k["high"] - k["value"] for k in kl]
                axes.errorbar(
                    [_megabytes(p) for p in some], [k["value"] for k in kl], yerr=[below, above],
                    fmt=MARKERS[runtime], color=color, label=label, markerfacecolor=face,
                    markersize=5.5, elinewidth=0.8,
                )  # fmt: skip
