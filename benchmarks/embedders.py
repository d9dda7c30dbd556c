"""all-MiniLM-L6-v2 beside llama.cpp, PyTorch and sentence-transformers: one short text, throughput,
loading, peak memory.

One text has 16 tokens. The throughput is of 256 sentences of news, of mixed lengths: one by one, in
padded batches of 32 as they come, or, ours and sentence-transformers, sorted by length. Each
contestant runs in a process of its own, in turn. Where ONNX Runtime has CUDA, a row is ours on it.
"""

from argparse import Namespace

import onnxruntime
from common import WORK, arguments, start, workload_of
from contestants import code_hash
from measure import Benchmark

from llmkg_lab import texts
from llmkg_lab.artifact import Artifact
from llmkg_lab.catalog import roster
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.convert import convert_all
from llmkg_lab.export import gguf
from llmkg_lab.runtime.packed import prepare
from llmkg_lab.sources import fetch

SCHEMES = ("fp32", "int8", "int4")
TYPES = ("F16", "Q8_0")
SENTENCES, LONGEST = 256, 100  # words: what llama.cpp's default batch of 512 tokens holds
CUDA = "CUDAExecutionProvider"
METRICS = {
    "single_ms": "a text of 16 tokens, ms",
    "per_second": "texts a second",
    "load_s": "load, s",
    "peak_mb": "peak memory, MB",
}
BENCHMARK = Benchmark("embedders", "all-MiniLM-L6-v2, embedding texts", METRICS)


def main(options: Namespace) -> None:
    folder = fetch(roster()["all_minilm_l6_v2"], "package").path
    checkpoint, conditions = open_checkpoint(folder), {"threads": options.threads}
    work = {**conditions, "texts": sentences()}
    one_by_one = {**work, "batch_size": 1}
    contestants = {
        "PyTorch float32": workload_of("PyTorch embedder", folder, work),
        "PyTorch float32, one by one": workload_of("PyTorch embedder", folder, one_by_one),
        "sentence-transformers": workload_of("sentence-transformers", folder, work),
    }
    for kind in TYPES:
        out = WORK / "minilm" / f"gguf-{kind}"
        if not (out / "manifest.json").exists():
            gguf.export(checkpoint, kind, out, force=True)
        model = out / f"model-{kind}.gguf"
        contestants[f"llama.cpp {kind}"] = workload_of("llama.cpp embedder", model, work)
    made = our_embedders()
    for name, artifact in made.items():
        ours = workload_of("llmkg-lab embedder", artifact.folder, {**work, "batch_size": None})
        contestants[f"llmkg-lab {name}"] = ours
    naive = workload_of("llmkg-lab embedder", made["fp32"].folder, one_by_one)
    contestants["llmkg-lab fp32, one by one"] = naive
    if CUDA in onnxruntime.get_available_providers():
        on_gpu = {**work, "provider": CUDA}
        gpu = workload_of("llmkg-lab embedder", made["fp32"].folder, on_gpu)
        contestants["llmkg-lab fp32 on CUDA"] = gpu
    samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    note = f"{options.threads} threads."
    BENCHMARK.publish(samples, conditions, note, ("single_ms", "per_second", "peak_mb"))


def our_embedders() -> dict[str, Artifact]:
    """By scheme."""
    checkpoint = open_checkpoint(fetch(roster()["all_minilm_l6_v2"], "package").path)
    out = WORK / "minilm" / code_hash()[:12]
    made = convert_all(checkpoint, SCHEMES, out, source={"kind": "package"})
    for artifact in made.values():
        prepare(artifact)
    return made


def sentences() -> list[str]:
    """News sentences at even distances."""
    text = texts.load(("lee_background",)).text
    found = [s.strip() for line in text.splitlines() for s in line.split(". ")]
    found = [s for s in found if 3 <= len(s.split()) <= LONGEST]
    return found[:: len(found) // SENTENCES][:SENTENCES]


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
