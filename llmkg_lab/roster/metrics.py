"""The table of metrics: for each its title, the format of its values, its unit and good side."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """The side of a bound on which a value is good."""

    AT_MOST = "at most"
    AT_LEAST = "at least"

    def holds(self, value: float, bound: float) -> bool:
        """Whether a value keeps a bound; NaN keeps none."""
        return value <= bound if self is Side.AT_MOST else value >= bound


LOW, HIGH = Side.AT_MOST, Side.AT_LEAST


@dataclass(frozen=True)
class Metric:
    """One metric, for tables and summaries."""

    title: str
    form: str  # as ``format`` takes it
    unit: str = ""  # empty for shares and other pure numbers
    good: Side | None = None  # None for what describes the reference or the machine
    brief: str = ""  # a value in the words of a summary of one line
    shown: bool = True  # in tables

    @property
    def heading(self) -> str:
        """The title with the unit, for the head of a column."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def text(self, value: float) -> str:
        """A value as tables write it, without its unit."""
        return format(value, self.form)


# In the order of the columns
QUALITY = {
    "kl_mean": Metric("KL mean", ".4f", "nats", LOW, "KL {:.4f} nats"),
    "kl_p99": Metric("KL p99", ".3f", "nats", LOW),
    "kl_max": Metric("KL max", ".2f", "nats", LOW),
    "top1_agreement": Metric("top-1 agreement", ".2%", "", HIGH),
    "perplexity": Metric("perplexity", ".2f", "", LOW),
    "perplexity_reference": Metric("the reference's perplexity", ".2f", shown=False),
    "perplexity_ratio": Metric("perplexity ratio", ".4f", "", LOW, "perplexity ×{:.3f}"),
    "kl_elsewhere": Metric("KL on other text", ".4f", "nats", LOW),
    "top1_elsewhere": Metric("top-1 agreement on other text", ".2%", "", HIGH),
    "perplexity_ratio_elsewhere": Metric(
        "perplexity ratio on other text", ".4f", "", LOW, "on other text ×{:.3f}"
    ),
    "common_prefix": Metric("greedy continuation in common", ".1f", "tokens", HIGH),
    "cosine_mean": Metric("cosine mean", ".5f", "", HIGH, "cosine {:.5f}"),
    "cosine_min": Metric("cosine min", ".5f", "", HIGH),
    "cosine_calibrated": Metric("cosine on text as calibrated on", ".5f", "", HIGH),
    "neighbours10": Metric("10 neighbours in common", ".1%", "", HIGH),
    "spearman": Metric("Spearman ρ to human scores", ".4f", "", HIGH),
    "spearman_reference": Metric("the reference's ρ", ".4f", shown=False),
    "spearman_ratio": Metric("of the reference's ρ", ".2%", "", HIGH),
    "score_pearson": Metric("scores: Pearson r", ".5f", "", HIGH),
    "score_spearman": Metric("scores: Spearman ρ", ".5f", "", HIGH, "scores ρ {:.5f}"),
    "kendall": Metric("rankings: Kendall τ", ".4f", "", HIGH),
    "ndcg10": Metric("NDCG@10", ".4f", "", HIGH),
}
SPEED = {
    "load_ms": Metric("load", ",.0f", "ms", LOW),
    "first_token_ms": Metric("first token", ",.0f", "ms", LOW),
    "decode_ms": Metric("one token", ".2f", "ms", LOW, "{:.2f} ms/token"),
    "tokens_per_second": Metric("decoding", ".0f", "tokens/s", HIGH),
    "bandwidth_gb_s": Metric("reading memory", ".1f", "GB/s", shown=False),
    "floor_ms": Metric("bandwidth floor", ".2f", "ms"),
    "embed_ms": Metric("one embedding", ".2f", "ms", LOW, "{:.2f} ms/text"),
    "pair_ms": Metric("one pair", ".2f", "ms", LOW, "{:.2f} ms/pair"),
    "pairs_per_second": Metric("scoring", ",.0f", "pairs/s", HIGH),
    "sentences_per_second": Metric("embedding", ",.0f", "sentences/s", HIGH),
    "peak_memory_mb": Metric("peak memory", ",.0f", "MB", LOW),
}
METRICS = QUALITY | SPEED
BOUNDED = {name: metric.good for name, metric in QUALITY.items() if metric.good}  # in limits
HEADLINE = (  # what a report's first table shows
    *("kl_mean", "kl_elsewhere", "perplexity_ratio", "perplexity_ratio_elsewhere"),
    *("cosine_mean", "spearman", "score_spearman", "ndcg10"),
    *("decode_ms", "embed_ms", "pair_ms"),
)
SUMMARY = (  # what one line says of an artifact: the first that was measured
    *("perplexity_ratio", "perplexity_ratio_elsewhere", "kl_mean", "cosine_mean", "score_spearman"),
    *("decode_ms", "embed_ms", "pair_ms"),
)


def in_tables(measured: Iterable[str]) -> list[str]:
    """Those of the measured metrics that tables show, in the order of the columns."""
    names = set(measured)
    return [name for name, metric in METRICS.items() if metric.shown and name in names]
