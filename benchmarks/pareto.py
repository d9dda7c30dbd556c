"""The figure of bytes against divergence."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from llmkg_lab import figures  # sets the style  # noqa: F401

COLORS = {"llmkg-lab": "#bc4c00", "llama.cpp": "#0969da", "onnxruntime-genai": "#57606a"}
MARKERS = {"llmkg-lab": "o", "llama.cpp": "s", "onnxruntime-genai": "^"}


def draw(points: Sequence[dict], path: Path) -> None:
    """Points of quality.json as an SVG file: lower left is better."""
    figure, axes = plt.subplots(figsize=(8, 5))
    for runtime, color in COLORS.items():
        own = [point for point in points if point["runtime"] == runtime]
        with_matrix = [point for point in own if point["name"].endswith("imatrix")]
        plain = [point for point in own if point not in with_matrix]
        _scatter(axes, plain, runtime, color, filled=True)
        if with_matrix:
            _scatter(axes, with_matrix, f"{runtime} with importance matrix", color, filled=False)
    axes.set(yscale="log", xlabel="MB of weights and graph", ylabel="KL divergence, nats a token")
    axes.set(title="What the bytes buy: SmolLM2-135M-Instruct, 95 % intervals")
    axes.margins(x=0.15)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _scatter(axes, points: Sequence[dict], label: str, color: str, filled: bool) -> None:
    if not points:
        return
    megabytes = [point["bytes"] / 1e6 for point in points]
    values = [point["kl"]["value"] for point in points]
    below = [p["kl"]["value"] - p["kl"]["low"] for p in points]
    above = [p["kl"]["high"] - p["kl"]["value"] for p in points]
    marker = MARKERS[points[0]["runtime"]]
    axes.errorbar(
        megabytes, values, yerr=[below, above], fmt=marker, color=color, label=label,
        markerfacecolor=color if filled else "white", elinewidth=0.8,
    )  # fmt: skip
    # by turns to the left and to the right, so that neighbours' names do not cover each other
    for i, (point, x, y) in enumerate(zip(points, megabytes, values, strict=True)):
        name = point["name"].removesuffix(" imatrix")
        place, side = (((-5, 3), "right"), ((5, 3), "left"))[i % 2]
        axes.annotate(
            name, (x, y), place, textcoords="offset points", ha=side, fontsize=7, color=color
        )
