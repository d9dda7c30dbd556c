"""SmolLM2-135M beside llama.cpp, onnxruntime-genai and PyTorch: loading, first token, decoding,
peak memory.

A prompt of 128 tokens, then 100 more. Each contestant runs in a process of its own, in turn; files
are in the system's cache. The floor is the time to read our int4 weights from memory once.
"""

import argparse
import os
from pathlib import Path

from common import (
    WORK,
    alternate,
    compare,
    float32_model,
    packaged_checkpoint,
    publish,
    workload_of,
)
from contestants import build_genai, code_hash, quantize_gguf

from llmkg_lab.artifact import Artifact
from llmkg_lab.convert import convert_all
from llmkg_lab.export import gguf
from llmkg_lab.speed import read_bandwidth, weight_bytes_per_token

SCHEMES = ("int4", "int4-b64", "int8")
TYPES = ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0")
THREADS = os.cpu_count() or 1
METRICS = {
    "load_s": "load, s",
    "first_ms": "first token of 128, ms",
    "decode_ms": "a token, ms",
    "peak_mb": "peak memory, MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()

    artifacts = our_models()
    work = {"threads": options.threads}
    contestants = {
        f"llmkg-lab {name}": workload_of("llmkg-lab", artifact.folder, work)
        for name, artifact in artifacts.items()
    }
    for kind in TYPES:
        contestants[f"llama.cpp {kind}"] = workload_of("llama.cpp", gguf_model(kind), work)
    contestants["onnxruntime-genai int4"] = workload_of("onnxruntime-genai", genai_model(), work)
    contestants["PyTorch float32"] = workload_of("PyTorch", float32_model(), work)
    samples = alternate(contestants, options.rounds)
    rate = read_bandwidth(options.threads)
    floor = weight_bytes_per_token(artifacts["int4"]) / rate / 1e6
    note = f"Memory is read at {rate:.1f} GB/s: int4's weights once in {floor:.1f} ms. "
    note += f"{options.threads} threads."
    publish("decoders", samples, compare(samples, METRICS), note)


def our_models() -> dict[str, Artifact]:
    return convert_all(
        packaged_checkpoint(), SCHEMES, WORK / code_hash()[:12], source={"kind": "package"}
    )


def gguf_model(kind: str) -> Path:
    source = WORK / "gguf"
    if not (source / "manifest.json").exists():
        gguf.export(packaged_checkpoint(), "F32", source, force=True)
    return quantize_gguf(source / "model-F32.gguf", kind, WORK / f"{kind}.gguf")


def genai_model() -> Path:
    out = WORK / "genai-int4"
    if not (out / "genai_config.json").exists():
        build_genai(float32_model(), out)
    return out


if __name__ == "__main__":
    main()
