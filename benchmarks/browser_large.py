"""1.1 and 3 billion parameters in Chromium: TinyLlama's and OpenELM's shapes, beside SmolLM2's.

The weights are synthetic: sizes and times are those of the real models. A prompt of 128 tokens,
then 16 more, by the page's own loader, from pieces that a server on this machine hands out. Memory
is what the browser's renderer has resident at most. The first time takes some minutes and 14 GB of
disk: the weights, the artifacts and their bundles. What the page needs: `make web`.
"""

import json
import os
from argparse import Namespace
from pathlib import Path

from benchmarks.browser import METRICS, BenchServer, built, in_browser
from benchmarks.common import HERE, WORK, arguments, start
from benchmarks.contestants import code_hash
from benchmarks.measure import Benchmark
from llmkg_lab.base import paths
from llmkg_lab.base.bar import Bar
from llmkg_lab.browser.trial import find_chromium
from llmkg_lab.conversion import to_web
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.sources import fetch

VARIANTS = ("smollm2_135m_instruct", "tinyllama_1_1b_chat_v1_0", "openelm_3b")
SCHEME, TOKENS = "int4-rtn", 16
BENCHMARK = Benchmark("browser_large", "1.1 and 3 billion parameters in Chromium", METRICS)


def main(options: Namespace) -> None:
    bundles = {variant: made(variant) for variant in VARIANTS}
    server = BenchServer(paths.web(), {**bundles, "bench": HERE})
    chromium = find_chromium()
    contestants = {}
    for variant, folder in bundles.items():
        work = {"url": f"/bundles/{variant}/", "threads": options.threads, "tokens": TOKENS}
        name = f"{variant}, {weights(folder) / 1e6:,.0f} MB of weights"
        contestants[name] = in_browser(server, chromium, "ours", {**work, "relaxed": True})
    conditions = {"threads": options.threads, "tokens": TOKENS, "page": built()}
    note = f"{options.threads} threads. Load average before it {os.getloadavg()[0]:.1f}."
    with server.in_background():
        samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    BENCHMARK.publish(samples, conditions, note)


def made(variant: str) -> Path:
    """The bundle of a variant's shape, its weights drawn at random; made once."""
    folder = WORK / variant / code_hash()[:12]
    with Bar() as bar:
        fetched = fetch(find_variant(variant), "synthetic:full", progress=bar)
        source = {"kind": fetched.kind, "synthetic": True}
        artifacts = convert_all(fetched.open(), [SCHEME], folder, source=source, progress=bar)
    return to_web.bundle(artifacts[SCHEME], folder / f"web-{SCHEME}", force=True)


def weights(bundle: Path) -> int:
    """The bytes of a bundle's pieces."""
    pieces = json.loads((bundle / to_web.FILE).read_text())["pieces"]
    return sum((bundle / piece).stat().st_size for piece in pieces)


if __name__ == "__main__":
    parser = arguments(__doc__)
    start(lambda: main(parser.parse_args()))
