"""What a server's metrics say of the time between two looks."""

import math
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Look = dict[str, dict[tuple[tuple[str, str], ...], float]]  # name -> labels -> value


@dataclass(frozen=True)
class ModelLoad:
    """A model between two looks; rates are per second, times in seconds, None where unknown."""

    name: str
    running: int
    waiting: int
    kv_share: float
    prompt_rate: float
    token_rate: float
    text_rate: float
    first_token: float | None  # medians
    first_token_95: float | None
    between: float | None
    nbytes: int
    cache_hits: float | None  # share of lookups since the server began


@dataclass(frozen=True)
class ServerLoad:
    """A server between two looks."""

    models: tuple[ModelLoad, ...]
    in_flight: int
    request_rate: float
    errors: dict[str, float]  # requests since the server began, by status from 400 on
    resident: int
    files: int


def look(text: str) -> Look:
    """Read what /metrics answers."""
    found: Look = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def load(before: Look, after: Look, seconds: float) -> ServerLoad:
    """What happened between two looks that are ``seconds`` apart."""
    names = sorted({dict(labels)["model_name"] for labels in after.get("llmkg_model_bytes", {})})
    http = _by(after, "llmkg_http_requests_total", "status")
    return ServerLoad(
        tuple(_model(name, before, after, seconds) for name in names),
        int(_total(after, "llmkg_http_requests_in_flight")),
        _rate(before, after, "llmkg_http_requests_total", seconds),
        {status: count for status, count in sorted(http.items()) if status >= "400"},
        int(_total(after, "llmkg_resident_bytes")),
        int(_total(after, "llmkg_open_files")),
    )


def _model(name: str, before: Look, after: Look, seconds: float) -> ModelLoad:
    own = {"model_name": name}
    hits, misses = (_total(after, f"llmkg_cache_{w}_total", **own) for w in ("hits", "misses"))
    first = _buckets(before, after, "vllm:time_to_first_token_seconds", own)
    between = _buckets(before, after, "vllm:inter_token_latency_seconds", own)
    return ModelLoad(
        name,
        int(_total(after, "vllm:num_requests_running", **own)),
        int(_total(after, "vllm:num_requests_waiting", **own)),
        _total(after, "vllm:kv_cache_usage_perc", **own),
        _rate(before, after, "vllm:prompt_tokens_total", seconds, **own),
        _rate(before, after, "vllm:generation_tokens_total", seconds, **own),
        _rate(before, after, "llmkg_encoded_texts_total", seconds, **own),
        quantile(first, 0.5),
        quantile(first, 0.95),
        quantile(between, 0.5),
        int(_total(after, "llmkg_model_bytes", **own)),
        hits / (hits + misses) if hits + misses else None,
    )


def quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """A quantile of a histogram, linear within its bucket, as Prometheus estimates it.

    buckets: (upper bound, how many are not above it), by bound.
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted, lower, below = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (wanted - below) / max(count - below, 1e-9)
        lower, below = bound, count
    return lower


def _buckets(before: Look, after: Look, name: str, own: dict) -> list[tuple[float, float]]:
    """A histogram of what came between two looks; of all that ever came, where nothing did."""
    now = _by(after, f"{name}_bucket", "le", **own)
    then = _by(before, f"{name}_bucket", "le", **own)
    new = {bound: count - then.get(bound, 0.0) for bound, count in now.items()}
    counted = new if any(new.values()) else now
    return sorted((float(bound), count) for bound, count in counted.items())


def _by(look: Look, name: str, label: str, **own: str) -> dict[str, float]:
    """Values by one label, summed over the others."""
    found: dict[str, float] = {}
    for labels, value in look.get(name, {}).items():
        if own.items() <= dict(labels).items():
            key = dict(labels)[label]
            found[key] = found.get(key, 0.0) + value
    return found


def _total(look: Look, name: str, **own: str) -> float:
    values = look.get(name, {}).items()
    return sum(value for labels, value in values if own.items() <= dict(labels).items())


def _rate(before: Look, after: Look, name: str, seconds: float, **own: str) -> float:
    more = _total(after, name, **own) - _total(before, name, **own)
    return max(0.0, more) / seconds  # less after the server was started again
