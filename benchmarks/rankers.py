"""ms-marco-MiniLM-L6-v2, a cross-encoder, beside PyTorch and sentence-transformers.

Its weights are synthetic: no package carries the real ones, and times are the same. One pair has 16
tokens; the throughput is of 256 pairs of news sentences, of mixed lengths: one by one, in padded
batches of 32, or sorted by length. Each contestant runs in a process of its own, in turn.
"""

from argparse import Namespace

from common import WORK, arguments, float32_folder, start, workload_of
from contestants import code_hash
from embedders import SENTENCES, sentences
from measure import Benchmark

from llmkg_lab.catalog import roster
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.convert import convert_all
from llmkg_lab.runtime.packed import prepare
from llmkg_lab.sources import fetch

SCHEMES = ("fp32", "int8", "int4")
METRICS = {
    "single_ms": "a pair of 16 tokens, ms",
    "per_second": "pairs a second",
    "load_s": "load, s",
    "peak_mb": "peak memory, MB",
}
BENCHMARK = Benchmark("rankers", "ms-marco-MiniLM-L6-v2, scoring pairs", METRICS)


def main(options: Namespace) -> None:
    fetched = fetch(roster()["ms_marco_minilm_l6_v2"], "synthetic:full")
    checkpoint, conditions = open_checkpoint(fetched.path), {"threads": options.threads}
    folder = float32_folder(checkpoint, WORK / "ms-marco" / fetched.revision)
    work = {**conditions, "texts": sentences()}
    one_by_one = {**work, "batch_size": 1}
    contestants = {
        "PyTorch float32": workload_of("PyTorch ranker", folder, work),
        "PyTorch float32, one by one": workload_of("PyTorch ranker", folder, one_by_one),
        "sentence-transformers": workload_of("sentence-transformers ranker", folder, work),
    }
    out = WORK / "ms-marco" / code_hash()[:12]
    made = convert_all(checkpoint, SCHEMES, out, source={"kind": "synthetic"})
    for name, artifact in made.items():
        prepare(artifact)
        ours = workload_of("llmkg-lab ranker", artifact.folder, {**work, "batch_size": None})
        contestants[f"llmkg-lab {name}"] = ours
    naive = workload_of("llmkg-lab ranker", made["fp32"].folder, one_by_one)
    contestants["llmkg-lab fp32, one by one"] = naive
    samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    note = f"{options.threads} threads, {SENTENCES} pairs, weights drawn at random."
    BENCHMARK.publish(samples, conditions, note, ("single_ms", "per_second"))


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
