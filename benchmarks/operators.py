"""Where the time goes: SmolLM2-135M in int4, operator by operator, of a token and of a prompt.

ONNX Runtime's profiler, which adds about a third; a product of matrices is named by what it is
between. 128 tokens of prompt, then 80 more; one process a round.
"""

import json
import sys
import tempfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import arguments, run, start
from benchmarks.decoders import our_models
from benchmarks.measure import OTHERS, Benchmark
from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.ort.decoder import Decoder

PROMPT, STEPS = 128, 80
METRICS = {
    "times": "times",
    "token_ms": "a token, ms",
    "prompt_ms": f"prompt of {PROMPT}, ms",
}
PARTS = {
    "GroupQueryAttention": "attention, rotation and cache",
    "SimplifiedLayerNormalization": "norms and residual sums",
    "SkipSimplifiedLayerNormalization": "norms and residual sums",
    "QuickGelu": "SiLU, its product, the split",
    "Mul": "SiLU, its product, the split",
    "Split": "SiLU, its product, the split",
}
BENCHMARK = Benchmark("operators", "SmolLM2-135M in int4, operator by operator", METRICS)


def main(options: Namespace) -> None:
    conditions = {"threads": options.threads}
    command = [sys.executable, "-m", "benchmarks.operators", "--profile"]
    command += [str(our_models()["int4-rtn"].folder), "--threads", str(options.threads)]
    whole = {"all": lambda: json.loads(run(command).output.splitlines()[-1])}
    rounds = BENCHMARK.alternate(whole, options.rounds, conditions, options.again)["all"]
    names = sorted(rounds[0].keys() - {OTHERS}, key=lambda n: -rounds[0][n]["token_ms"])
    samples = {name: [r[name] for r in rounds] for name in names}
    note = f"{options.threads} threads. Ratios are to the whole; the profiler adds about a third."
    BENCHMARK.publish(samples, conditions, note, ("token_ms", "prompt_ms"))


def profile(artifact: Artifact, threads: int) -> dict[str, dict[str, float]]:
    """Times and milliseconds a step and a prompt, by operator."""
    with tempfile.TemporaryDirectory() as folder:
        decoder = Decoder(artifact, threads, PROMPT + STEPS, profile=Path(folder) / "profile")
        decoder.prefill(np.arange(PROMPT) % decoder.vocab)
        for _ in range(STEPS):
            decoder.step(1)
        events = json.loads(Path(decoder.session.end_profiling()).read_text())
    found = defaultdict(lambda: dict.fromkeys(METRICS, 0.0))
    config = artifact.config
    for operator, tokens, microseconds in _kernels(events, config):
        for name in ("all", operator):
            if tokens == 1:
                found[name]["times"] += 1 / STEPS
                found[name]["token_ms"] += microseconds / 1000 / STEPS
            else:
                found[name]["prompt_ms"] += microseconds / 1000
    return found


def _kernels(events: list[dict], config: dict) -> Iterator[tuple[str, int, int]]:
    """Of each run of an operator: what it is, how many tokens it took, and microseconds."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    qkv = width + 2 * width * kv_heads // heads
    products = {
        (width, qkv): "QKV product",
        (width, width): "output projection",
        (width, inner): "gate and up products",
        (width, 2 * inner): "gate and up product",
        (inner, width): "down product",
        (width, config["vocab_size"]): "LM head",
    }
    tokens = PROMPT
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        args = event["args"]
        kind, outputs = args["op_name"], args["output_type_shape"]
        shapes = [next(iter(shape.values())) for shape in args["input_type_shape"]]
        if kind == "GroupQueryAttention":
            tokens = shapes[0][1]
        if kind == "MatMulNBits":
            ends = (shapes[0][-1], next(iter(outputs[0].values()))[-1])
            yield products.get(ends, "other products"), tokens, event["dur"]
        else:
            yield PARTS.get(kind, "the rest"), tokens, event["dur"]


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--profile", type=Path, metavar="ARTIFACT", help="one round, as JSON")
    options = parser.parse_args()
    if options.profile:
        print(json.dumps(profile(Artifact.open(options.profile), options.threads)))
    else:
        start(lambda: main(options))
