"""Decoding with SmolLM2-135M in int4: ms a token at a context of 128 to 228 tokens.

Beside us: onnxruntime-genai's own generator on the int4 model that its own builder made.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from common import WORK, alternate, compare, float32_model, peer_python, publish, run

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.convert import convert
from llmkg_lab.quantize import Scheme

PROMPT, STEPS = 128, 100
THREADS = os.cpu_count() or 1

OURS = """
import json, sys, time
import numpy as np
from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.ort import Decoder
folder, prompt, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
decoder = Decoder(Artifact.open(folder), threads, prompt + steps + 1)
token = int(decoder.prefill(np.arange(100, 100 + prompt)).argmax())
times = []
for _ in range(steps):
    start = time.perf_counter()
    token = int(decoder.step(token).argmax())
    times.append(1000 * (time.perf_counter() - start))
print(json.dumps(times))
"""

GENAI = """
import json, sys, time
import numpy as np
import onnxruntime_genai as genai
folder, prompt, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
model = genai.Model(folder)
params = genai.GeneratorParams(model)
params.set_search_options(max_length=prompt + steps + 1, do_sample=False)
generator = genai.Generator(model, params)
generator.append_tokens(np.arange(100, 100 + prompt, dtype=np.int32)[None])
generator.generate_next_token()
times = []
for _ in range(steps):
    start = time.perf_counter()
    generator.generate_next_token()
    times.append(1000 * (time.perf_counter() - start))
print(json.dumps(times))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds

    contestants = {"onnxruntime-genai int4": timed(peer_python(), GENAI, genai_model())}
    for name in ("int4", "int4-b64", "int8"):
        contestants[f"llmkg-lab {name}"] = timed(sys.executable, OURS, our_model(name).folder)
    samples = alternate(contestants, rounds)
    publish("decode", samples, compare(samples, {"ms": "ms a token"}))


def timed(python: str, code: str, folder: Path):
    def contestant() -> dict:
        arguments = [str(folder), str(PROMPT), str(STEPS), str(THREADS)]
        times = json.loads(run([python, "-c", code, *arguments]).output.splitlines()[-1])
        return {"ms": sorted(times)[len(times) // 2]}

    return contestant


def our_model(scheme: str) -> Artifact:
    checkpoint, out = open_checkpoint(float32_model()), WORK / scheme
    return convert(checkpoint, Scheme.parse(scheme), out, force=True)


def genai_model() -> Path:
    out = WORK / "genai-int4"
    if not (out / "genai_config.json").exists():
        builder = [peer_python(), "-m", "onnxruntime_genai.models.builder"]
        paths = ["-i", str(float32_model()), "-o", str(out), "-c", str(WORK / "genai-cache")]
        run([*builder, *paths, "-p", "int4", "-e", "cpu"])
    return out


if __name__ == "__main__":
    main()
