"""ms-marco-MiniLM-L6-v2, a cross-encoder, beside PyTorch and sentence-transformers.

Its weights are synthetic: no package carries the real ones, and times are the same. One pair has 16
tokens; the throughput is of 256 pairs of news sentences, of mixed lengths: one by one, in padded
batches of 32, or sorted by length. Each contestant runs in a process of its own, in turn.
"""

from argparse import Namespace

from benchmarks.common import WORK, arguments, float32_folder, start
from benchmarks.contestants import code_hash
from benchmarks.embedders import FIGURE, METRICS, SCHEMES, SENTENCES, beside_pytorch, sentences
from benchmarks.measure import Benchmark
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.sources import fetch

TITLES = {key: title.replace("text", "pair") for key, title in METRICS.items()}
BENCHMARK = Benchmark("rankers", "ms-marco-MiniLM-L6-v2, scoring pairs", TITLES)


def main(options: Namespace) -> None:
    fetched = fetch(find_variant("ms_marco_minilm_l6_v2"), "synthetic:full")
    checkpoint, conditions = fetched.open(), {"threads": options.threads}
    folder = float32_folder(checkpoint, WORK / "ms-marco" / fetched.revision)
    out = WORK / "ms-marco" / code_hash()[:12]
    made = convert_all(checkpoint, SCHEMES, out, source={"kind": fetched.kind})
    work = {**conditions, "texts": sentences()}
    contestants = beside_pytorch("ranker", folder, made, work)
    samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    note = f"{options.threads} threads, {SENTENCES} pairs, weights drawn at random."
    BENCHMARK.publish(samples, conditions, note, FIGURE)


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
