"""The figures of a report: matplotlib, static, with units; a scheme keeps its colour."""

import html
from collections.abc import Mapping, Sequence

import matplotlib_inline.backend_inline
import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmkg_lab.artifact import Artifact
from llmkg_lab.measure.quality import Quality
from llmkg_lab.measure.speed import Speed
from llmkg_lab.runtime.text.tokenizer import Tokenizer

SCHEME_COLORS = {
    "fp32": "#57606a",
    "fp16": "#8250df",
    "int8": "#0969da",
    "int4": "#bc4c00",
    "budget": "#1a7f37",
}
GROUP_COLORS = ("#0550ae", "#218bff", "#80ccff", "#d4a72c", "#bc4c00", "#8c959f", "#57606a")
STRIP_CEILING = 1.0  # nats at which the token strip's colour is full

plt.rcParams.update(
    {
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "font.size": 9,
        "svg.hashsalt": "llmkg-lab",  # the same figure, the same bytes
    }
)
matplotlib_inline.backend_inline.set_matplotlib_formats("svg", metadata={"Date": None})


def color(scheme: str) -> str:
    """The colour of a scheme, by its base."""
    return SCHEME_COLORS[scheme.split("-")[0]]


def sizes(artifacts: Mapping[str, Artifact]) -> Figure:
    """Bytes by group of tensors, one bar per scheme."""
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.45 * len(artifacts)))
    names = [group.name for group in next(iter(artifacts.values())).manifest.groups]
    left = np.zeros(len(artifacts))
    for i, name in enumerate(names):
        widths = [_group_bytes(artifact, name) / 1e6 for artifact in artifacts.values()]
        axes.barh(list(artifacts), widths, left=left, label=name, color=GROUP_COLORS[i])
        left += widths
    for row, (artifact, total) in enumerate(zip(artifacts.values(), left, strict=True)):
        axes.annotate(
            f" {total:.0f} MB, {artifact.bits_per_weight:.2f} bits per weight",
            (total, row),
            va="center",
        )
    axes.invert_yaxis()
    axes.set(title="Size by group of tensors", xlabel="MB", xlim=(0, 1.45 * left.max()))
    figure.legend(loc="outside right center", frameon=False)
    return _finish(figure)


def _group_bytes(artifact: Artifact, name: str) -> int:
    return sum(group.bytes for group in artifact.manifest.groups if group.name == name)


def layers(heads: Sequence[int], kv_heads: Sequence[int], feed_forward: Sequence[int]) -> Figure:
    """How a model's layers differ: attention heads and feed-forward width of each."""
    figure, (attention, width) = plt.subplots(1, 2, figsize=(8, 2.4))
    index = range(len(heads))
    attention.bar(index, heads, color=GROUP_COLORS[2], label="query heads")
    attention.bar(index, kv_heads, color=GROUP_COLORS[0], label="key-value heads")
    attention.set(title="Attention", xlabel="layer", ylabel="heads")
    attention.legend(frameon=False, loc="upper left", ncols=2)
    attention.set_ylim(0, 1.25 * max(heads))  # room for the legend
    width.bar(index, feed_forward, color=GROUP_COLORS[4])
    width.set(title="Feed-forward", xlabel="layer", ylabel="width")
    for axes in (attention, width):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _finish(figure)


def divergence(qualities: Mapping[str, Quality]) -> Figure:
    """Mean KL divergence with its interval, and how the tokens' values are distributed."""
    figure, (mean, spread) = plt.subplots(1, 2, figsize=(8, 2.8), width_ratios=(2, 3))
    for row, (name, quality) in enumerate(qualities.items()):
        kl = quality.metrics["kl_mean"]
        low, high = (kl.value if end is None else end for end in (kl.low, kl.high))
        bars = [[kl.value - low], [high - kl.value]]
        mean.errorbar(kl.value, row, xerr=np.maximum(bars, 0), fmt="o", color=color(name))
        values = np.sort(np.maximum(quality.samples["kl"].ravel(), 1e-9))
        share = 1 - np.arange(len(values)) / len(values)
        spread.plot(values, 100 * share, color=color(name), label=name)
    mean.set(yticks=range(len(qualities)), yticklabels=qualities, xscale="log")
    mean.set(title="Mean KL divergence, 95 % interval", xlabel="nats per token")
    mean.invert_yaxis()
    spread.set(xscale="log", yscale="log", xlim=(1e-7, None), ylim=(0.05, 110))
    spread.set(title="Share of tokens above a KL divergence", xlabel="nats", ylabel="% of tokens")
    spread.legend(frameon=False)
    return _finish(figure)


def token_strip(
    tokenizer: Tokenizer, window: np.ndarray, kl: np.ndarray, scheme: str, count: int = 120
) -> HTML:
    """The start of a window with each token coloured by the KL divergence of its prediction.

    window: (tokens,) ids; kl: nats, kl[i] is of the prediction of window[i + 1].
    """
    spans = []
    for token, value in zip(window[1 : count + 1], kl, strict=False):
        strength = min(value / STRIP_CEILING, 1)
        text = html.escape(tokenizer.decode([int(token)])).replace("\n", "⏎<br>")
        style = f"background:rgba(207,34,46,{strength:.2f});white-space:pre-wrap"
        spans.append(f'<span style="{style}" title="{value:.3f} nats">{text}</span>')
    note = (
        f"Darker: {scheme} predicts this token more differently from the reference; "
        f"full colour from {STRIP_CEILING:g} nats. Hover for the value."
    )
    strip = f'<div style="line-height:1.7;max-width:52em">{"".join(spans)}</div>'
    return HTML(f"{strip}<p><small>{note}</small></p>")


def cosines(qualities: Mapping[str, Quality]) -> Figure:
    """How far each sentence's embedding moved: one minus the cosine, sorted."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    for name, quality in qualities.items():
        distances = np.sort(np.maximum(1 - quality.samples["cosine"], 1e-9))
        share = 100 * np.arange(1, len(distances) + 1) / len(distances)
        axes.plot(distances, share, color=color(name), label=name)
    axes.set(xscale="log", title="Embeddings moved by quantization")
    axes.set(xlabel="1 − cosine to the reference", ylabel="% of sentences at most")
    axes.legend(frameon=False)
    return _finish(figure)


def scores(qualities: Mapping[str, Quality], reference: np.ndarray) -> Figure:
    """Each pair's score against the reference's; the diagonal means no change."""
    figure, axes = plt.subplots(figsize=(4.5, 3.5))
    axes.axline((float(reference.mean()),) * 2, slope=1, color="#8c959f", linewidth=0.8)
    for name, quality in qualities.items():
        axes.plot(
            reference, quality.samples["scores"], ".", markersize=3, color=color(name), label=name
        )
    axes.set(title="Scores of pairs, logits", xlabel="PyTorch float32", ylabel="quantized")
    axes.legend(frameon=False)
    return _finish(figure)


def latency(speeds: Mapping[str, Speed], metric: str, title: str) -> Figure:
    """A latency in ms by scheme: median, 10th to 90th percentile, and the bandwidth floor."""
    figure, axes = plt.subplots(figsize=(7, 0.7 + 0.4 * len(speeds)))
    for row, (name, speed) in enumerate(speeds.items()):
        measured = speed.metrics[metric]
        spread = [[measured.value - measured.low], [measured.high - measured.value]]
        axes.barh(row, measured.value, color=color(name), xerr=spread, ecolor="#24292f")
        _mark_floor(axes, row, speed)
    axes.set(yticks=range(len(speeds)), yticklabels=speeds, title=title, xlabel="ms")
    axes.invert_yaxis()
    return _finish(figure)


def _mark_floor(axes: Axes, row: int, speed: Speed) -> None:
    if floor := speed.metrics.get("floor_ms"):
        label = "memory-bandwidth floor" if row == 0 else "_"  # named once
        axes.vlines(floor.value, row - 0.4, row + 0.4, color="#cf222e", label=label)
        axes.legend(frameon=False, loc="lower right")


def _finish(figure: Figure) -> Figure:
    plt.close(figure)  # shown once, as the cell's value, and not again when the cell ends
    return figure
