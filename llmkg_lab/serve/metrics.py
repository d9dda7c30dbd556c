"""What a server tells Prometheus: vLLM's names where vLLM has the same, ``llmkg_`` else.

Several worker processes write into one folder (PROMETHEUS_MULTIPROC_DIR), and whichever is asked
answers for all of them.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from llmkg_lab.runtime.caches import CacheStats
from llmkg_lab.serve.engine.scheduler import Times

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
MODEL = ("model_name",)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
QUERY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


class Metrics:
    """The metrics of a server. All methods may be called from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each, which no query here asks for
        self.registry = CollectorRegistry()
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.running = gauge("vllm:num_requests_running", "Sequences in slots.", MODEL)
        self.waiting = gauge("vllm:num_requests_waiting", "Sequences that wait.", MODEL)
        self.kv_share = gauge("vllm:kv_cache_usage_perc", "Share of the KV caches in use.", MODEL)
        self.prompt_tokens = counter("vllm:prompt_tokens", "Tokens of prompts that ran.", MODEL)
        self.new_tokens = counter("vllm:generation_tokens", "Tokens that were made.", MODEL)
        self.success = counter(
            "vllm:request_success", "Answers that were whole.", (*MODEL, "finished_reason")
        )
        self.queue_time = histogram(
            "vllm:request_queue_time_seconds", "From asking to the first chunk.", LONG
        )
        self.prefill_time = histogram(
            "vllm:request_prefill_time_seconds", "Of running a prompt.", LONG
        )
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds", "From asking to the first text.", LONG
        )
        self.between = histogram(
            "vllm:inter_token_latency_seconds", "Between two texts, for each token.", SHORT
        )
        self.whole = histogram("vllm:e2e_request_latency_seconds", "From asking to the end.", LONG)
        self.request_prompt = histogram(
            "vllm:request_prompt_tokens", "Tokens of a request's prompts.", COUNTS
        )
        self.request_new = histogram(
            "vllm:request_generation_tokens", "Tokens of a request's answers.", COUNTS
        )
        self.steps = histogram(
            "llmkg_decode_step_seconds", "Of a step of all running sequences.", SHORT
        )
        self.texts = counter(
            "llmkg_encoded_texts", "Texts embedded, pairs ranked.", (*MODEL, "operation")
        )
        self.http = counter(
            "llmkg_http_requests", "Requests by route and status.", ("route", "status")
        )
        self.cancelled = counter(
            "llmkg_requests_cancelled", "Requests whose client went away.", ("route",)
        )
        self.tools = counter(
            "llmkg_tool_calls", "Graph queries and other tools of /mcp.", ("tool", "outcome")
        )
        self.tool_time = histogram("llmkg_tool_seconds", "Of a call of a tool.", QUERY, ("tool",))
        self.connections = gauge("llmkg_http_requests_in_flight", "Requests being answered.")
        self.loaded = gauge("llmkg_model_bytes", "Of a model in memory.", MODEL)
        self.memory = gauge("llmkg_resident_bytes", "Memory of the server's processes.")
        self.files = gauge("llmkg_open_files", "File handles of the server's processes.")
        self.cache_bytes = gauge("llmkg_cache_bytes", "Held by a cache.", (*MODEL, "cache"))
        self.cache_hits = counter("llmkg_cache_hits", "Lookups that hit.", (*MODEL, "cache"))
        self.cache_misses = counter("llmkg_cache_misses", "Lookups that missed.", (*MODEL, "cache"))
        self._cached: dict[tuple[str, str], CacheStats] = {}
        self._process = psutil.Process()

    def model(self, name: str) -> "ModelObserver":
        """What a scheduler tells of the model ``name``."""
        return ModelObserver(self, name)

    def caches(self, model: str, stats: dict[str, CacheStats]) -> None:
        """Take the counts of a model's caches, which are totals."""
        for cache, now in stats.items():
            before = self._cached.get((model, cache))
            hits, misses = (before.hits, before.misses) if before else (0, 0)
            if now.hits < hits or now.misses < misses:  # the model was loaded again
                hits = misses = 0
            self.cache_hits.labels(model, cache).inc(now.hits - hits)
            self.cache_misses.labels(model, cache).inc(now.misses - misses)
            self.cache_bytes.labels(model, cache).set(now.nbytes)
            self._cached[model, cache] = now

    def tool(self, name: str, outcome: str, seconds: float) -> None:
        """Count a call of a tool."""
        self.tools.labels(name, outcome).inc()
        self.tool_time.labels(name).observe(seconds)

    def process(self) -> None:
        """Look at this process's memory and file handles."""
        self.memory.set(self._process.memory_info().rss)
        if hasattr(self._process, "num_fds"):
            self.files.set(self._process.num_fds())

    def text(self) -> bytes:
        """All metrics, of all worker processes, as Prometheus reads them."""
        if os.environ.get(FOLDER):
            together = CollectorRegistry()
            MultiProcessCollector(together)
            return generate_latest(together)
        return generate_latest(self.registry)

    def names(self) -> set[str]:
        """The names that queries may use."""
        return {
            sample
            for family in self.registry.collect()
            for sample in _samples(family.name, family.type)
        }

    def _counter(self, name: str, what: str, labels: Sequence[str]) -> Counter:
        return Counter(name, what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
        # summed over the processes that live
        return Gauge(name, what, labels, registry=self.registry, multiprocess_mode="livesum")

    def _histogram(
        self, name: str, what: str, buckets: Sequence[float], labels: Sequence[str] = MODEL
    ) -> Histogram:
        return Histogram(name, what, labels, registry=self.registry, buckets=buckets)


class ModelObserver:
    """A model's metrics, with its label looked up once."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        def of(metric: Any) -> Any:
            return metric.labels(name)

        self._running, self._waiting = of(metrics.running), of(metrics.waiting)
        self._share, self._steps = of(metrics.kv_share), of(metrics.steps)
        self._queue_time, self._prefill = of(metrics.queue_time), of(metrics.prefill_time)
        self._prompt_tokens, self._new_tokens = of(metrics.prompt_tokens), of(metrics.new_tokens)

    def state(self, waiting: int, running: int, share: float) -> None:
        """Sequences in each state, and the share of the caches in use."""
        self._waiting.set(waiting)
        self._running.set(running)
        self._share.set(share)

    def prompt(self, tokens: int, times: Times) -> None:
        """A prompt has run."""
        self._prompt_tokens.inc(tokens)
        self._queue_time.observe(times.begun - times.asked)
        self._prefill.observe(times.run - times.begun)

    def tokens(self, count: int, seconds: float) -> None:
        """A step made so many tokens."""
        self._new_tokens.inc(count)
        self._steps.observe(seconds)


SUFFIXES: dict[str, Callable[[str], set[str]]] = {
    "counter": lambda name: {f"{name}_total"},
    "gauge": lambda name: {name},
    "histogram": lambda name: {f"{name}_{end}" for end in ("bucket", "sum", "count")},
}


def _samples(name: str, kind: str) -> set[str]:
    return SUFFIXES[kind](name)
