"""The figures of a report: matplotlib, static, with units; a scheme keeps its colour."""

import base64
import colorsys
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from llmkg_lab.artifact import Artifact
from llmkg_lab.measure.quality import Quality
from llmkg_lab.measure.speed import Speed
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import BLOCK_SIZES, PRESETS, Scheme

# Hues, of 360 degrees: by base, and of the 4-bit schemes, which a report may hold many of, by how
# their codes were found
HUES = {"fp16": 262, "int8": 212, "budget": 140}
METHOD_HUES = {"rtn": 25, "eq": 48, "mse": 72, "gptq": 350, "dwq": 315}
PRESET_HUES = dict(zip(PRESETS, (350, 196, 120, 23, 286, 228, 60), strict=True))
GREY = "#57606a"  # of fp32
SPREAD = (0.7549, 0.5698)  # multiples of them, less their whole part, fill a square evenly
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


@dataclass(frozen=True)
class Picture:
    """A figure with the words for those who cannot see it.

    It is shown as SVG and as PNG both: JupyterLab draws no SVG of a notebook that it does not
    trust, and a page wants the sharp one.
    """

    figure: Figure
    alt: str

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        svg, png = io.BytesIO(), io.BytesIO()
        self.figure.savefig(svg, format="svg", metadata={"Date": None})
        self.figure.savefig(png, format="png", dpi=2 * self.figure.dpi)
        width = int(self.figure.get_figwidth() * self.figure.dpi)
        data = {
            "image/svg+xml": svg.getvalue().decode(),
            "image/png": base64.b64encode(png.getvalue()).decode(),
            "text/plain": self.alt,
        }
        return data, {"image/svg+xml": {"alt": self.alt}, "image/png": {"width": width}}


def color(scheme: str) -> str:
    """The colour of a scheme by its name: the same in every figure and in every report.

    The hue tells how codes were found; lightness and shade of the hue, how they are stored.
    """
    parsed = Scheme.parse(scheme)
    if parsed.base == "fp32":
        return GREY
    if parsed.preset:
        return _rgb(PRESET_HUES[parsed.preset], 0.42)
    method = "dwq" if parsed.distilled else parsed.method
    light, shade = (factor * _storage(parsed) % 1 for factor in SPREAD)
    hue = HUES.get(parsed.base, METHOD_HUES[method]) + 16 * shade
    lightness = 0.34 + 0.28 * light
    return _rgb(hue, lightness)


def _rgb(hue: float, lightness: float) -> str:
    """A saturated colour as HTML writes it."""
    parts = colorsys.hls_to_rgb(hue / 360 % 1, lightness, 0.85)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _storage(scheme: Scheme) -> int:
    """A number that tells apart schemes whose codes were found in the same way; 0: nothing said."""
    if scheme.budget:
        return int(10 * scheme.budget.amount)
    number = 0
    for index, choices in (
        (BLOCK_SIZES.index(scheme.block_size), 3),
        ((None, 4, 8).index(scheme.table_bits), 3),
        ((None, *BLOCK_SIZES).index(scheme.table_block), 4),
        (scheme.symmetric, 2),
        (scheme.half_scales, 2),
        (scheme.dynamic, 2),
        (scheme.table_symmetric, 2),
    ):
        number = number * choices + index
    return number


def sizes(artifacts: Mapping[str, Artifact]) -> Picture:
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
    megabytes = {name: f"{total:.0f} MB" for name, total in zip(artifacts, left, strict=True)}
    return _finish(figure, f"Bars of each scheme's size, in groups: {_named(megabytes)}.")


def _group_bytes(artifact: Artifact, name: str) -> int:
    return sum(group.bytes for group in artifact.manifest.groups if group.name == name)


def layers(heads: Sequence[int], kv_heads: Sequence[int], feed_forward: Sequence[int]) -> Picture:
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
    words = f"Bars by layer: {min(heads)} to {max(heads)} query heads, and a feed-forward width of "
    return _finish(figure, f"{words}{min(feed_forward)} to {max(feed_forward)}.")


def divergence(qualities: Mapping[str, Quality]) -> Picture:
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
    means = {name: f"{q.metrics['kl_mean'].value:.2g} nats" for name, q in qualities.items()}
    words = "Mean KL divergence with its interval, and the share of tokens above each divergence"
    return _finish(figure, f"{words}: {_named(means)}.")


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


def cosines(qualities: Mapping[str, Quality]) -> Picture:
    """How far each sentence's embedding moved: one minus the cosine, sorted."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    for name, quality in qualities.items():
        distances = np.sort(np.maximum(1 - quality.samples["cosine"], 1e-9))
        share = 100 * np.arange(1, len(distances) + 1) / len(distances)
        axes.plot(distances, share, color=color(name), label=name)
    axes.set(xscale="log", title="Embeddings moved by quantization")
    axes.set(xlabel="1 − cosine to the reference", ylabel="% of sentences at most")
    axes.legend(frameon=False)
    medians = {name: f"{np.median(1 - q.samples['cosine']):.2g}" for name, q in qualities.items()}
    words = "How far embeddings moved, one minus the cosine, as curves over all sentences; medians"
    return _finish(figure, f"{words}: {_named(medians)}.")


def scores(qualities: Mapping[str, Quality], reference: np.ndarray) -> Picture:
    """Each pair's score against the reference's; the diagonal means no change."""
    figure, axes = plt.subplots(figsize=(4.5, 3.5))
    axes.axline((float(reference.mean()),) * 2, slope=1, color="#8c959f", linewidth=0.8)
    for name, quality in qualities.items():
        axes.plot(
            reference, quality.samples["scores"], ".", markersize=3, color=color(name), label=name
        )
    axes.set(title="Scores of pairs, logits", xlabel="PyTorch float32", ylabel="quantized")
    axes.legend(frameon=False)
    away = {
        name: f"{np.abs(quality.samples['scores'] - reference).mean():.2g}"
        for name, quality in qualities.items()
    }
    words = "Each pair's score against the reference's, as points; mean distance"
    return _finish(figure, f"{words}: {_named(away)}.")


def latency(speeds: Mapping[str, Speed], metric: str, title: str) -> Picture:
    """A latency in ms by scheme: median, 10th to 90th percentile, and the bandwidth floor."""
    figure, axes = plt.subplots(figsize=(7, 0.7 + 0.4 * len(speeds)))
    for row, (name, speed) in enumerate(speeds.items()):
        measured = speed.metrics[metric]
        spread = [[measured.value - measured.low], [measured.high - measured.value]]
        axes.barh(row, measured.value, color=color(name), xerr=spread, ecolor="#24292f")
        if floor := speed.metrics.get("floor_ms"):
            label = "memory-bandwidth floor" if row == 0 else "_"  # named once
            axes.vlines(floor.value, row - 0.4, row + 0.4, color="#cf222e", label=label)
    axes.set(yticks=range(len(speeds)), yticklabels=speeds, title=title, xlabel="ms")
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper right", frameon=False)  # beside the title, off the bars
    axes.invert_yaxis()
    medians = {name: f"{speed.metrics[metric].value:.2f} ms" for name, speed in speeds.items()}
    return _finish(figure, f"{title}, as bars: {_named(medians)}.")


def _finish(figure: Figure, alt: str) -> Picture:
    plt.close(figure)  # shown once, as the cell's value, and not again when the cell ends
    return Picture(figure, alt)


def _named(values: Mapping[str, str]) -> str:
    """Values by scheme, as a figure's words list them."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
