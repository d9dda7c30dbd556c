"""Which recipe is the fastest on this processor: the candidates of a kind, timed side by side.

Latency depends on shapes and layouts and not on what the weights know. So a synthetic model of
the kind's own shape, with fewer layers where it is large, is stored in each candidate's layouts,
rounded to nearest; what a solver would add changes codes alone.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.machine import default_threads
from llmkg_lab.base.progress import Progress, inside, silent, track
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.models import published
from llmkg_lab.presets import Kind, kinds, speeds
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import synthetic

ROUNDS = 12
CALLS = 8  # of each candidate in a round; a round counts with their median
TEXT = "the " * 14  # 16 tokens


def measure(kind: str, progress: Progress = silent) -> dict[str, float]:
    """Return ms per token, or per text, by recipe: the median over rounds in which all take turns.

    A budget's mix is not timed: which it is depends on the weights.
    """
    with tempfile.TemporaryDirectory(prefix="llmkg-lab-") as scratch:
        artifacts = _artifacts(kinds()[kind], Path(scratch), inside(progress, kind))
        calls = {recipe: _call(artifact) for recipe, artifact in artifacts.items()}
        samples: dict[str, list[float]] = {recipe: [] for recipe in calls}
        for turn in track(range(ROUNDS + 1), inside(progress, kind), "timing", "rounds"):
            for recipe, call in calls.items():
                seconds = [_timed(call) for _ in range(CALLS)]
                if turn:  # the first one warms up
                    samples[recipe].append(1000 * statistics.median(seconds))
        del calls  # files are open until then
    return {recipe: statistics.median(found) for recipe, found in samples.items()}


def _artifacts(kind: Kind, folder: Path, progress: Progress) -> Mapping[str, Artifact]:
    shape = published.known()[speeds.TIMED[kind.name][0]]
    layers = min(speeds.LAYERS, shape.form.layers)
    fewer = replace(shape, config={**shape.config, "num_hidden_layers": layers})
    synthetic.write(folder / "checkpoint", fewer, kind.name, progress)
    checkpoint = open_checkpoint(folder / "checkpoint")
    schemes = {fact.recipe: Scheme.parse(fact.recipe) for fact in kind.facts}
    return {
        recipe: convert(checkpoint, _rounded(scheme), folder / recipe, progress=progress)
        for recipe, scheme in schemes.items()
        if not scheme.budget
    }


def _rounded(scheme: Scheme) -> Scheme:
    """The same layouts, rounded to nearest."""
    return replace(scheme, method="rtn", distilled=False)


def _call(artifact: Artifact) -> Callable[[], object]:
    """One token after a prompt, or one text."""
    if artifact.task != "text-generation":
        embedder = Embedder(artifact, default_threads())
        return lambda: embedder.embed([TEXT])
    decoder = Decoder(artifact, default_threads(), 64 + CALLS * (ROUNDS + 1))
    decoder.prefill(np.arange(32))
    return lambda: decoder.step(1)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
