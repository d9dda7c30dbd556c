"""What each quantizer costs at how many bytes, all judged by the same float32 logits.

SmolLM2-135M-Instruct with its channels rescaled (the same function, on no scheme's grid); the
second half of the evaluation text in windows of 512 tokens; calibration, ours and llama.cpp's
importance matrix, reads the first half. Writes results/quality.json, .md and pareto.svg. What was
measured is kept under a hash of its files, so a run that was cut off goes on where it stopped; rows
that a run does not measure stay as they were.

quality.json: {model, protocol {corpus, sha256, windows, tokens_scored, …}, points [{name, runtime,
seeds, bytes, bits_per_weight, file_bytes, kl {value, low, high, n}, perplexity_ratio {…},
top1 {…}, kl_by_seed [one a seed], perplexity_ratio_by_seed […]}]}. bytes: weights and graph,
without a tokenizer. Intervals are 95 %, over blocks of text; with several seeds each token's
figures are their mean over the seeds, and what the seeds differ by stands beside it.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from statistics import mean

import numpy as np
from tqdm import tqdm

from benchmarks.common import RESULTS, VARIANT, interval, machine, start, versions
from benchmarks.contestants import (
    GENAI,
    GGUF_TYPES,
    SCHEMES,
    SIGMA,
    Contestant,
    Weights,
)
from benchmarks.importance import CALIBRATION, WINDOW
from benchmarks.pareto import draw
from llmkg_lab.base import cache
from llmkg_lab.data import texts
from llmkg_lab.measure.protocol import Protocol
from llmkg_lab.measure.quality import divergence, score_windows
from llmkg_lab.reference import outputs as reference
from llmkg_lab.reference.outputs import DecoderReference
from llmkg_lab.roster.catalog import Evaluation
from llmkg_lab.runtime.text.tokenizer import Tokenizer

CORPORA = ("wikitext2", "lee_background")
METRICS = {"kl": "kl_mean", "perplexity_ratio": "perplexity_ratio", "top1": "top1_agreement"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the rescaling")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--schemes", nargs="*", default=SCHEMES, help="of ours")
    parser.add_argument("--types", nargs="*", default=GGUF_TYPES, help="of llama.cpp")
    parser.add_argument("--genai", nargs="*", default=tuple(GENAI), choices=GENAI)
    options = parser.parse_args()

    read = Protocol(Evaluation(CORPORA, options.tokens, WINDOW))
    weights = [Weights(seed, read.text) for seed in options.seeds]
    rescaled = tqdm(weights, desc="PyTorch's logits", unit="seed")
    references = [reference_of(w, read) for w in rescaled]
    fingerprints = [w.checkpoint.fingerprint() for w in weights]
    protocol = describe(references[0], read.text, fingerprints)
    points = earlier(protocol)
    with tqdm(entries(options.schemes, options.types, options.genai), unit="model") as bar:
        for title, make in bar:
            bar.set_description(title)
            runs = [measure(make(w), r) for w, r in zip(weights, references, strict=True)]
            entry = {**point(runs, references[0]), "seeds": options.seeds}
            points[entry["runtime"], entry["name"]] = entry
            publish(list(points.values()), protocol)
    print((RESULTS / "quality.md").read_text())


def entries(
    schemes: Sequence[str], types: Sequence[str], genai: Sequence[str]
) -> list[tuple[str, Callable[[Weights], Contestant]]]:
    """What is compared: a title for the progress bar, and how it is made from weights."""
    made = [(name, partial(Weights.ours, name=name)) for name in schemes]
    for kind in types:
        make = partial(Weights.llama_cpp, kind=kind)
        made.append((f"llama.cpp {kind}", partial(make, with_importance=False)))
        if kind != "Q8_0":  # which takes no account of it
            made.append((f"llama.cpp {kind} imatrix", partial(make, with_importance=True)))
    return made + [(f"genai {name}", partial(Weights.genai, name=name)) for name in genai]


def reference_of(weights: Weights, read: Protocol) -> DecoderReference:
    """The rescaled weights in PyTorch on the evaluation half."""
    windows = read.reading(Tokenizer.from_folder(weights.float32)).windows
    return reference.decoder_reference(weights.checkpoint, windows, [], 0)


def measure(contestant: Contestant, reference: DecoderReference) -> tuple[Contestant, dict]:
    """The contestant and its samples by metric, one a scored token, from the cache if there."""

    def score() -> cache.Arrays:
        with contestant.opened() as decoder:
            return score_windows(decoder, reference)

    key = {
        "files": contestant.sha256,
        "runtime": versions()[contestant.runtime],
        "reference": reference.checkpoint.fingerprint(),
        "windows": reference.windows.tolist(),
    }
    return contestant, cache.arrays("benchmark-quality", key, score)


def point(runs: Sequence[tuple[Contestant, dict]], reference: DecoderReference) -> dict:
    """One entry of quality.json; ``runs`` differ in their seed."""
    contestants, samples = zip(*runs, strict=True)
    pooled = {name: np.mean([s[name] for s in samples], axis=0) for name in samples[0]}
    estimates = divergence(pooled, *reference.windows.shape)
    nbytes = round(mean(c.nbytes for c in contestants))
    parameters = sum(np.prod(info.shape) for info in reference.checkpoint.tensors.values())
    return {
        "name": contestants[0].name,
        "runtime": contestants[0].runtime,
        "bytes": nbytes,
        "bits_per_weight": nbytes * 8 / int(parameters),
        "file_bytes": round(mean(c.file_bytes for c in contestants)),
        **{name: interval(estimates[metric]) for name, metric in METRICS.items()},
        "kl_by_seed": [float(s["kl"].mean()) for s in samples],
        "perplexity_ratio_by_seed": [_perplexity_ratio(s) for s in samples],
    }


def _perplexity_ratio(samples: dict[str, np.ndarray]) -> float:
    return float(np.exp(np.mean(samples["nll_candidate"] - samples["nll_reference"])))


def earlier(protocol: dict) -> dict[tuple[str, str], dict]:
    """Rows of runs before, by runtime and name: they stay, where all else was the same."""
    path = RESULTS / "quality.json"
    record = json.loads(path.read_text()) if path.exists() else {"protocol": None}
    if record["protocol"] != protocol:
        return {}
    return {(entry["runtime"], entry["name"]): entry for entry in record["points"]}


def describe(reference: DecoderReference, text: texts.Text, fingerprints: Sequence[str]) -> dict:
    """The protocol: what was measured, on what, by what."""
    count, size = reference.windows.shape
    return {
        "weights": f"the packaged GGUF dequantized, channels rescaled with sigma {SIGMA}",
        "fingerprints": fingerprints,
        "corpus": text.name,
        "sha256": text.sha256,
        "half": "second",
        "windows": count,
        "window": size,
        "tokens_scored": count * (size - 1),
        "calibration": "first half of the corpus",
        "importance_tokens": CALIBRATION * WINDOW,
        "reference": f"transformers on torch {version('torch')}, float32",
        "runtimes": versions(),
        "machine": machine(),
    }


def publish(points: Sequence[dict], protocol: dict) -> None:
    """Whatever is measured so far, as JSON, Markdown and a figure."""
    points = sorted(points, key=lambda entry: (entry["bytes"], entry["kl"]["value"]))
    record = {"model": VARIANT, "protocol": protocol, "points": points}
    (RESULTS / "quality.json").write_text(json.dumps(record, indent=2) + "\n")
    (RESULTS / "quality.md").write_text(table(points) + "\n\n" + note(points, protocol) + "\n")
    draw(points, RESULTS / "pareto.svg")


def table(points: Sequence[dict]) -> str:
    """Markdown, one row a quantized model; in bold what nothing smaller beats."""
    by_seed = any(len(entry["seeds"]) > 1 for entry in points)
    titles = ["runtime", "model", "MB", "bits per weight", "KL, nats per token", "by seed"]
    titles += ["perplexity", "by seed", "same top token"]
    ruler = ["---", "---", *["---:"] * 7]
    rows, best = [titles, ruler], float("inf")
    for entry in points:
        kl, ratio, top1 = (entry[name] for name in METRICS)
        mark = "**" if kl["value"] < best else ""
        best = min(best, kl["value"])
        rows.append(
            [
                entry["runtime"],
                f"{mark}`{entry['name']}`{mark}",
                f"{entry['bytes'] / 1e6:.1f}",
                f"{entry['bits_per_weight']:.2f}",
                f"{mark}{_kl(kl['value'])}{mark} ({_kl(kl['low'])} to {_kl(kl['high'])})",
                ", ".join(map(_kl, entry["kl_by_seed"])),
                f"{_percent(ratio['value'])} % ({_percent(ratio['low'])} to "
                f"{_percent(ratio['high'])})",
                ", ".join(map(_percent, entry["perplexity_ratio_by_seed"])),
                f"{100 * top1['value']:.1f} %",
            ]
        )
    columns = [i for i, title in enumerate(titles) if by_seed or title != "by seed"]
    return "\n".join("| " + " | ".join(row[i] for i in columns) + " |" for row in rows)


def note(points: Sequence[dict], protocol: dict) -> str:
    by_row = sorted({tuple(entry["seeds"]) for entry in points}, key=len)
    seeds = f"seeds {', '.join(map(str, by_row[-1]))}"
    if len(by_row) > 1:
        seeds += " (where fewer figures are by seed, the first ones)"
    return (
        f"{protocol['tokens_scored']:,} tokens of the second half of {protocol['corpus']}, "
        f"{protocol['windows']} windows of {protocol['window']}; {protocol['weights']}, {seeds}. "
        "In parentheses: 95 %, over text. MB are 10⁶ bytes of weights and graph, without a "
        f"tokenizer. imatrix: importance matrix on {protocol['importance_tokens']:,} tokens of "
        "the first half. Bold: no smaller model is better."
    )


def _kl(value: float) -> str:
    """Three decimals, or two figures where that would leave but one."""
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}"


if __name__ == "__main__":
    start(main)
