"""How fast an artifact runs and how much memory it takes, measured in processes of its own.

A notebook's memory and threads would disturb, so ``measure`` starts a few fresh processes,
one after another, each of which is this module run as a program: it loads the artifact, runs
the workload and prints its samples. What is reported pools them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.machine import cpu_name, default_threads, read_bandwidth
from llmkg_lab.base.progress import Progress, silent, track
from llmkg_lab.measure.values import Measurement
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.ort.packed import prepare
from llmkg_lab.runtime.ort.ranker import Ranker

Samples = dict[str, list[float]]  # by metric, in the metric's unit


class SpeedError(LabError):
    """An artifact whose speed cannot be measured."""


@dataclass(frozen=True)
class Workload:
    """What one process runs."""

    prompt_tokens: int = 128  # prefilled for the first token; decoding goes on from there
    prefills: int = 5
    decode_steps: int = 100
    text_tokens: int = 16  # of the embedded text, [CLS] and [SEP] among them
    batch_size: int = 32  # texts, for the throughput
    embeddings: int = 100
    batches: int = 10
    threads: int | None = None  # by default the physical cores


@dataclass(frozen=True)
class Speed:
    """``metrics`` by name, and the conditions that they hold under.

    Decoders: load_ms, first_token_ms (prompt to first token), decode_ms (a later token),
    tokens_per_second, bandwidth_gb_s (what this machine reads from memory) and floor_ms (the
    time to read the weights once, which a token cannot beat unless they fit a cache).
    Embedders: load_ms, embed_ms (one text, tokenizing included), sentences_per_second.
    Cross-encoders: load_ms, pair_ms, pairs_per_second.
    All: peak_memory_mb, resident, of the whole process. MB and GB are powers of ten. Files
    were in the system's cache when they were loaded.
    """

    metrics: dict[str, Measurement]
    conditions: dict[str, str | int]


def measure(
    artifact: Artifact,
    workload: Workload | None = None,
    processes: int = 3,
    progress: Progress = silent,
) -> Speed:
    """Run ``workload`` in fresh processes and pool their samples.

    Raises SpeedError where the artifact's task has no workload or a process fails.
    """
    workload = workload or Workload()
    workload = replace(workload, threads=workload.threads or default_threads())
    if artifact.task not in WORKLOADS:
        raise SpeedError(
            f"{artifact.folder}: the speed of a {artifact.task} model is not measured",
            f"measured are {', '.join(WORKLOADS)}",
        )
    prepare(artifact)  # or the first process would load longer than all that come after it
    runs = [
        _run_in_process(artifact.folder, workload)
        for _ in track(range(processes), progress, "measuring speed", "processes")
    ]
    samples = {name: [x for run in runs for x in run[name]] for name in runs[0]}
    if "decode_ms" in samples:
        samples["tokens_per_second"] = [1000 / ms for ms in samples["decode_ms"]]
        rate = _bandwidth(workload.threads or default_threads())
        samples["bandwidth_gb_s"] = [rate]
        samples["floor_ms"] = [weight_bytes_per_token(artifact) / (1e6 * rate)]
    conditions = {
        **asdict(workload),
        "processes": processes,
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
    }
    return Speed({name: summarize(values) for name, values in samples.items()}, conditions)


@cache
def _bandwidth(threads: int) -> float:
    """GB/s that this machine reads: measured once, so that schemes have the same floor."""
    return read_bandwidth(threads)


def summarize(samples: list[float]) -> Measurement:
    """The median with the 10th and 90th percentile."""
    low, value, high = (float(x) for x in np.percentile(samples, (10, 50, 90)))
    return Measurement(value, low, high, len(samples))


def weight_bytes_per_token(artifact: Artifact) -> int:
    """Bytes of weights, as the file stores them, that one decode step reads.

    All but an embedding table that is not the LM head's too: of that, one row is read.
    """
    sizes = {group.name: group.bytes for group in artifact.manifest.groups}
    return sum(sizes.values()) - (sizes["embedding"] if "head" in sizes else 0)


def peak_memory() -> int:
    """Bytes that this process had resident at most.

    ru_maxrss would do, but on Linux it starts at the memory of the process that started this
    one: a notebook's, with PyTorch in it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _run_in_process(folder: Path, workload: Workload) -> Samples:
    arguments = [str(folder), json.dumps(asdict(workload))]
    process = subprocess.run(
        [sys.executable, "-m", "llmkg_lab.measure.speed", *arguments],
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise SpeedError(
            f"measuring {folder} failed: {process.stderr.strip()[-500:]}",
            "check the artifact with `llmkg-lab verify`",
        )
    return json.loads(process.stdout)


def _decoder_samples(artifact: Artifact, work: Workload) -> Samples:
    start = time.perf_counter()
    decoder = Decoder(artifact, work.threads, work.prompt_tokens + work.decode_steps)
    load = time.perf_counter() - start
    prompt = np.arange(work.prompt_tokens) % decoder.vocab  # which tokens makes no difference

    def first_token() -> int:
        decoder.reset()
        return int(decoder.prefill(prompt).argmax())

    first_token()  # warms up: memory is taken and caches fill
    prefills = _timed(first_token, work.prefills)
    steps = _timed(lambda: decoder.step(1).argmax(), work.decode_steps)
    return {
        "load_ms": [1000 * load],
        "first_token_ms": [1000 * s for s in prefills],
        "decode_ms": [1000 * s for s in steps],
    }


def _embedder_samples(artifact: Artifact, work: Workload) -> Samples:
    start = time.perf_counter()
    embedder = Embedder(artifact, work.threads)
    load = time.perf_counter() - start
    embedder.max_length = work.text_tokens  # cuts the text to exactly so many
    text = "the " * work.text_tokens
    names = ("embed_ms", "sentences_per_second")
    return {"load_ms": [1000 * load]} | _passes(embedder.embed, text, work, names)


def _ranker_samples(artifact: Artifact, work: Workload) -> Samples:
    start = time.perf_counter()
    ranker = Ranker(artifact, work.threads)
    load = time.perf_counter() - start
    ranker.max_length = work.text_tokens  # cuts the pair to exactly so many
    pair = ("the " * work.text_tokens,) * 2
    names = ("pair_ms", "pairs_per_second")
    return {"load_ms": [1000 * load]} | _passes(ranker.score, pair, work, names)


def _passes(
    run: Callable[..., object], item: object, work: Workload, names: tuple[str, str]
) -> Samples:
    """Samples, under these names, of one item's milliseconds and of a batch's items a second."""
    batch = [item] * work.batch_size
    run(batch)  # warms up
    singles = _timed(lambda: run([item]), work.embeddings)
    batches = _timed(lambda: run(batch, work.batch_size), work.batches)
    single, rate = names
    return {
        single: [1000 * s for s in singles],
        rate: [work.batch_size / s for s in batches],
    }


WORKLOADS: dict[str, Callable[[Artifact, Workload], Samples]] = {
    "text-generation": _decoder_samples,
    "sentence-embedding": _embedder_samples,
    "feature-extraction": _embedder_samples,
    "text-ranking": _ranker_samples,
}


def _timed(call: Callable[[], object], times: int) -> list[float]:
    """Seconds of each of ``times`` calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def main(folder: str, workload: str) -> None:
    """Measure in this process and print the samples as JSON."""
    artifact, work = Artifact.open(folder), Workload(**json.loads(workload))
    samples = WORKLOADS[artifact.task](artifact, work)
    samples["peak_memory_mb"] = [peak_memory() / 1e6]
    json.dump(samples, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
