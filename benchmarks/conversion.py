"""Converting SmolLM2-135M, 538 MB of float32 safetensors, to int4: time and peak memory.

Beside us: onnxruntime-genai's model builder. Both as a user starts them, one process each.
"""

import argparse
import shutil
import sys

from common import WORK, alternate, compare, float32_model, peer_python, publish, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    model = float32_model()

    def measured(command: list[str]) -> dict:
        result = run(command)
        return {"seconds": result.seconds, "peak_mb": result.peak_bytes / 1e6}

    def ours() -> dict:
        out = WORK / "converted"
        shutil.rmtree(out, ignore_errors=True)
        cli = [sys.executable, "-m", "llmkg_lab.cli", "convert", str(model)]
        return measured([*cli, "--scheme", "int4", "--out", str(out)])

    def genai() -> dict:
        out = WORK / "genai-converted"
        shutil.rmtree(out, ignore_errors=True)
        builder = [peer_python(), "-m", "onnxruntime_genai.models.builder", "-i", str(model)]
        cache = ["-c", str(WORK / "genai-cache")]
        return measured([*builder, "-o", str(out), "-p", "int4", "-e", "cpu", *cache])

    samples = alternate({"llmkg-lab": ours, "onnxruntime-genai": genai}, rounds)
    table = compare(samples, {"seconds": "seconds", "peak_mb": "peak memory, MB"})
    publish("conversion", samples, table)


if __name__ == "__main__":
    main()
