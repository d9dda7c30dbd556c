"""What each scheme costs all-MiniLM-L6-v2: cosines to PyTorch's embeddings, agreement with people.

All sentences of the STS benchmark's test split (Cer et al., 2017, arXiv:1708.00055), as ONNX
Runtime runs the artifacts. The change in Spearman's correlation is against PyTorch's embeddings, on
the same pairs. What calibrates reads the first half of the Lee background corpus, news that is no
part of the benchmark. Writes results/encoders.json and .md; what was measured is kept under a hash
of the artifact.

encoders.json: {model, protocol, points [{name, bytes, bits_per_weight, cosine_mean {value, low,
high, n}, cosine_min, spearman {…}, spearman_change {…}}]}. Intervals are 95 %.
"""

import argparse
import json
from collections.abc import Sequence

import numpy as np
from msgspec import to_builtins
from tqdm import tqdm

from benchmarks.common import RESULTS, WORK, interval, machine, start, versions
from benchmarks.contestants import code_hash
from llmkg_lab.artifact import Artifact
from llmkg_lab.base import cache
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data import texts
from llmkg_lab.measure.quality import validate_embedder
from llmkg_lab.measure.values import Estimate
from llmkg_lab.reference.outputs import embedder_reference
from llmkg_lab.roster.catalog import roster
from llmkg_lab.runtime.ort import decoder as ort
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

VARIANT = "all_minilm_l6_v2"
SCHEMES = (
    "fp32",
    "int8-rtn",
    "int8-s16-e8b128",
    "int8-b64-sym-s16",
    "int8-dyn",
    "int4-e4b128",
    "int4-s16-gptq-e4b128",
)


class _Stored:
    """An embedder whose vectors are known: an earlier run computed them."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schemes", nargs="*", default=SCHEMES)
    options = parser.parse_args()

    checkpoint = fetch(roster()[VARIANT], "package").open()
    pairs = texts.load_pairs(("stsb",))
    reference = embedder_reference(checkpoint, [*pairs.left, *pairs.right])
    sentences = list(dict.fromkeys(reference.texts))  # as they are validated: each once
    points = []
    with tqdm(options.schemes, unit="model") as bar:
        for name in bar:
            bar.set_description(name)
            artifact = artifact_of(checkpoint, name)
            stored = _Stored(embeddings(artifact, sentences))
            metrics = validate_embedder(stored, reference, pairs).metrics
            points.append(point(artifact, metrics))
            publish(points, pairs, len(sentences))
    print((RESULTS / "encoders.md").read_text())


def artifact_of(checkpoint: Checkpoint, name: str) -> Artifact:
    scheme = Scheme.parse(name)
    out = WORK / "minilm" / f"{scheme.name}-{code_hash()[:12]}"
    if not (out / "manifest.json").exists():
        convert(checkpoint, scheme, out, force=True)
    return Artifact.open(out)


def embeddings(artifact: Artifact, sentences: Sequence[str]) -> np.ndarray:
    """(sentences, hidden) float32, from the cache if there."""
    files = to_builtins(artifact.manifest.files)
    key = {"files": files, "texts": list(sentences), "runtime": versions()["llmkg-lab"]}

    def compute() -> cache.Arrays:
        return {"embeddings": ort.Embedder(artifact).embed(sentences)}

    return cache.arrays("benchmark-encoders", key, compute)["embeddings"]


def point(artifact: Artifact, metrics: dict[str, Estimate]) -> dict:
    """One entry of encoders.json."""
    people = metrics["spearman_reference"].value
    ratio = metrics["spearman_ratio"]  # paired: its interval is of the change, not of the text
    change = {"value": metrics["spearman"].value - people, "n": ratio.n}
    change |= {"low": people * (ratio.low - 1), "high": people * (ratio.high - 1)}
    return {
        "name": artifact.manifest.scheme.name,
        "bytes": artifact.nbytes,
        "bits_per_weight": artifact.bits_per_weight,
        "cosine_mean": interval(metrics["cosine_mean"]),
        "cosine_min": metrics["cosine_min"].value,
        "spearman": interval(metrics["spearman"]),
        "spearman_change": change,
    }


def publish(points: Sequence[dict], pairs: texts.Pairs, sentences: int) -> None:
    protocol = {"pairs": pairs.origin, "split": pairs.split, "sha256": pairs.sha256}
    protocol |= {"sentences": sentences, "machine": machine(), "runtimes": versions()}
    record = {"model": VARIANT, "protocol": protocol, "points": list(points)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "encoders.json").write_text(json.dumps(record, indent=2) + "\n")
    note = (
        f"{sentences:,} sentences and {len(pairs.scores):,} pairs of the STS benchmark's "
        f"{pairs.split} split. In parentheses: 95 %; of the change in Spearman's correlation with "
        "people, paired."
    )
    (RESULTS / "encoders.md").write_text(table(points) + "\n\n" + note + "\n")


def table(points: Sequence[dict]) -> str:
    """Markdown, one row a scheme."""
    titles = ["scheme", "MB", "cosine, mean", "least", "Spearman", "change against PyTorch"]
    rows = [titles, ["---", *["---:"] * 5]]
    for entry in points:
        cosine, change = entry["cosine_mean"], entry["spearman_change"]
        rows.append(
            [
                f"`{entry['name']}`",
                f"{entry['bytes'] / 1e6:.2f}",
                "{value:.4f} ({low:.4f} to {high:.4f})".format_map(cosine),
                f"{entry['cosine_min']:.3f}",
                f"{entry['spearman']['value']:.4f}",
                "{value:+.4f} ({low:+.4f} to {high:+.4f})".format_map(change),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    start(main)
