"""SmolLM2-135M beside llama.cpp, onnxruntime-genai and PyTorch: loading, first token, prompts,
decoding, peak memory.

A prompt of 128 tokens, then 100 more. Each contestant runs in a process of its own, in turn; files
are in the system's cache. Loading includes the import of the runtime's package; private memory is
what no file backs, when all is done. The floor is the time to read our int4 weights from memory
once.
"""

from argparse import Namespace
from pathlib import Path
from statistics import median

from benchmarks.common import (
    WORK,
    arguments,
    float32_model,
    packaged_checkpoint,
    start,
    workload_of,
)
from benchmarks.contestants import build_genai, code_hash, float32_gguf, quantize_gguf
from benchmarks.measure import Benchmark
from llmkg_lab.artifact import Artifact
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.measure.speed import read_bandwidth, weight_bytes_per_token
from llmkg_lab.runtime.ort.packed import prepare

SCHEMES = ("int4-rtn", "int4-sym-e4", "int4-b64", "int8-rtn")
TYPES = ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0")
METRICS = {
    "decode_ms": "a token, ms",
    "prefill_ms": "prompt of 128, ms",
    "first_s": "load and first token, s",
    "load_s": "load, s",
    "peak_mb": "peak memory, MB",
    "private_mb": "private memory, MB",
}
BENCHMARK = Benchmark("decoders", "SmolLM2-135M, generating text", METRICS)


def main(options: Namespace) -> None:
    artifacts, conditions = our_models(), {"threads": options.threads}
    contestants = {
        f"llmkg-lab {name}": workload_of("llmkg-lab", artifact.folder, conditions)
        for name, artifact in artifacts.items()
    }
    for kind in TYPES:
        contestants[f"llama.cpp {kind}"] = workload_of("llama.cpp", gguf_model(kind), conditions)
    genai = workload_of("onnxruntime-genai", genai_model(), conditions)
    contestants["onnxruntime-genai int4"] = genai
    contestants["PyTorch float32"] = workload_of("PyTorch", float32_model(), conditions)
    samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    rate = median(read_bandwidth(options.threads) for _ in range(3))
    floor = weight_bytes_per_token(artifacts["int4-rtn"]) / rate / 1e6
    note = f"{options.threads} threads. Memory is read at {rate:.1f} GB/s: int4's weights once in "
    note += f"{floor:.1f} ms."
    conditions |= {"bandwidth_gb_s": rate, "floor_ms": floor}
    figure = ("decode_ms", "prefill_ms", "peak_mb")
    BENCHMARK.publish(samples, conditions, note, figure, {"decode_ms": floor})


def our_models() -> dict[str, Artifact]:
    """By scheme; packed, so that no contestant's first process does it."""
    folder = WORK / code_hash()[:12]
    made = convert_all(packaged_checkpoint(), SCHEMES, folder, source={"kind": "package"})
    for artifact in made.values():
        prepare(artifact)
    return made


def gguf_model(kind: str) -> Path:
    source = float32_gguf(packaged_checkpoint(), WORK / "gguf")
    return quantize_gguf(source, kind, WORK / f"{kind}.gguf")


def genai_model() -> Path:
    out = WORK / "genai-int4"
    if not (out / "genai_config.json").exists():
        build_genai(float32_model(), out)
    return out


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
