"""Models of 1.1 and 3 billion parameters in Chromium: TinyLlama's and OpenELM's shape in int4.

The weights are synthetic: sizes and times are those of the real models. A prompt of 128 tokens,
then 16 more, by the page's own loader, from pieces that a server on this machine hands out; the
cache of keys and values has room for 2,048 tokens. Memory is what the browser's renderer has
resident at most. The first time takes some minutes and 14 GB of disk: the weights, the artifacts
and their bundles. What the page needs: `make web`.
"""

import os
from argparse import Namespace
from pathlib import Path

from benchmarks.browser import METRICS, BenchServer, built, in_browser
from benchmarks.common import WORK, arguments, start
from benchmarks.contestants import code_hash
from benchmarks.measure import Benchmark
from llmkg_lab.base import paths
from llmkg_lab.base.bar import Bar
from llmkg_lab.browser.trial import find_chromium
from llmkg_lab.conversion import to_web
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.sources import fetch

VARIANTS = {"1.1 B": "tinyllama_1_1b_chat_v1_0", "3 B": "openelm_3b"}
SCHEME, TOKENS, DISK = "int4-rtn", 16, 14e9
BENCHMARK = Benchmark(
    "browser_large", "1.1 and 3 billion parameters in Chromium", {**METRICS, "weights_mb": "MB"}
)


def main(options: Namespace) -> None:
    bundles = {size: made(variant) for size, variant in VARIANTS.items()}
    server = BenchServer(paths.web(), {**bundles, "bench": Path(__file__).parent})
    chromium = find_chromium()
    contestants = {}
    for size in bundles:
        for threads in (options.threads, 1):
            work = {"url": f"/bundles/{size}/", "relaxed": True, "threads": threads}
            runner = in_browser(server, chromium, "ours", {**work, "tokens": TOKENS})
            contestants[f"{size}, {threads} thread{'s' * (threads > 1)}"] = runner
    conditions = {"threads": options.threads, "tokens": TOKENS, "page": built()}
    load = os.getloadavg()[0]
    with server.in_background():
        samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    BENCHMARK.publish(samples, conditions, f"Load average before it {load:.1f}.")


def made(variant: str) -> Path:
    """The bundle of a variant's shape, its weights drawn at random; made once."""
    folder = WORK / variant / code_hash()[:12]
    with Bar() as bar:
        fetched = fetch(find_variant(variant), "synthetic:full", progress=bar)
        source = {"kind": fetched.kind, "synthetic": True}
        artifacts = convert_all(fetched.open(), [SCHEME], folder, source=source, progress=bar)
    return to_web.bundle(artifacts[SCHEME], folder / f"web-{SCHEME}", force=True)


if __name__ == "__main__":
    parser = arguments(__doc__)
    start(lambda: main(parser.parse_args()))
