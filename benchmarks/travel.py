"""Whether calibration travels: what each artifact loses on text of kinds that nobody solved on.

SmolLM2-135M-Instruct with its channels rescaled, each seed by other factors. Ours is solved on the
first half of WikiText-2 by turns with text of its own, or on its own alone; llama.cpp's importance
matrix is measured on that first half. All are judged by PyTorch in float32: on WikiText-2's second
half, on news, on code and on chat. Writes results/travel.json and .md. What was measured is kept
under a hash of its files, so that a run that was cut off goes on where it stopped; rows that a run
does not measure stay as they were.

travel.json: {protocol {kinds {name: {sha256, windows, tokens_scored}}, …}, points [{name, runtime,
how, bytes, seeds, sha256 [of each seed's files], method of our solvers, gpu, kinds {name: {kl
{value, low, high, n}, perplexity_ratio {…}, kl_by_seed […], less {…}}}}]}. less: the divergence
less PEER's on the same tokens, where both were measured. Intervals are 95 %, over blocks of text;
with several seeds each token's figures are their mean.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import mean
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.common import (
    RESULTS,
    WORK,
    interval,
    machine,
    packaged_checkpoint,
    start,
    versions,
)
from benchmarks.contestants import SIGMA, Contestant, Weights
from benchmarks.importance import CALIBRATION, WINDOW
from benchmarks.kinds import KINDS, Kind, read
from benchmarks.quality import measure
from llmkg_lab.artifact import Artifact
from llmkg_lab.base.errors import LabError
from llmkg_lab.data import texts
from llmkg_lab.measure.estimate import estimate
from llmkg_lab.measure.quality import BLOCK, divergence
from llmkg_lab.quantize.solve.decoder import METHOD
from llmkg_lab.reference import outputs as reference
from llmkg_lab.reference.outputs import DecoderReference
from llmkg_lab.runtime.text.tokenizer import Tokenizer

TOKENS = 16384  # of each kind, or as many as there are
SCHEME = "int4-s16-gptq-e8b64sym"
NOTHING = "nothing"  # read: a scheme that is not calibrated
OLDER = {  # what our solvers' methods before this one did otherwise
    6: "how outputs count is told by other random numbers, sums are rounded otherwise",
    7: "the same as 6",
}


@dataclass(frozen=True)
class Row:
    """One that is compared. how: the effort, and what it was solved on."""

    runtime: str
    name: str
    how: str

    @property
    def calibrates(self) -> bool:
        """Whether our solvers made it."""
        return self.runtime == "llmkg-lab" and self.how != NOTHING

    def make(self, weights: Weights) -> Contestant:
        """Made from some weights, or found."""
        if self.runtime == "llama.cpp":
            kind, *importance = self.name.split()
            return weights.llama_cpp(kind, with_importance=bool(importance))
        if self.how == NOTHING:
            return weights.ours(self.name)
        effort, *alone = self.how.split(", ")
        return weights.ours(self.name, effort, alone=bool(alone))


PEER = Row("llama.cpp", "Q4_K_M imatrix", "WikiText-2")
ROWS = (
    Row("llmkg-lab", SCHEME, "quick"),
    Row("llmkg-lab", SCHEME, "normal"),
    Row("llmkg-lab", SCHEME, "normal, its own text alone"),
    Row("llmkg-lab", SCHEME, "high"),
    Row("llmkg-lab", "budget:100MB", "normal"),
    PEER,
    Row("llmkg-lab", "int4-rtn", NOTHING),
    Row("llmkg-lab", "int4-s16-mse-e8b64sym", NOTHING),
    Row("llmkg-lab", "int8-s16-eq", NOTHING),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the rescaling")
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS)), help="by number")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    options = parser.parse_args()

    text = texts.load(("wikitext2",))
    weights = [Weights(seed, text) for seed in options.seeds]
    references = references_of(weights[0], options.kinds)
    protocol = describe(references)
    points = earlier(protocol)
    chosen = [ROWS[i] for i in options.rows]
    with tqdm(total=len(chosen) * len(weights), unit="model") as bar:
        for row in chosen:
            bar.set_description(f"{row.name}, {row.how}")
            runs = []
            for own in weights:
                runs.append(run(row.make(own), references))
                bar.update()
            measured = point(row, options.seeds, runs, references)
            points[row.runtime, row.name, row.how] = joined(
                points.get((row.runtime, row.name, row.how)), measured
            )
            publish(points, protocol)
    print((RESULTS / "travel.md").read_text())


def references_of(
    weights: Weights, names: Sequence[str]
) -> dict[str, tuple[Kind, DecoderReference]]:
    """PyTorch on some kinds, on the weights as packaged: rescaling is the same function."""
    tokenizer, checkpoint = Tokenizer.from_folder(weights.float32), packaged_checkpoint()
    kinds = [read(name, tokenizer, WINDOW, TOKENS) for name in names]
    return {
        kind.name: (kind, reference.decoder_reference(checkpoint, kind.windows, [], 0))
        for kind in kinds
    }


def run(
    contestant: Contestant, references: Mapping[str, tuple[Kind, DecoderReference]]
) -> tuple[Contestant, dict[str, dict[str, np.ndarray]]]:
    """A contestant and its samples by kind."""
    return contestant, {name: measure(contestant, r)[1] for name, (_, r) in references.items()}


def point(
    row: Row,
    seeds: Sequence[int],
    runs: Sequence[tuple[Contestant, dict[str, dict[str, np.ndarray]]]],
    references: Mapping[str, tuple[Kind, DecoderReference]],
) -> dict[str, Any]:
    """One entry of travel.json; ``runs`` differ in their seed."""
    kinds = {}
    for name, (kind, _) in references.items():
        samples = [found[name] for _, found in runs]
        pooled = {key: np.mean([s[key] for s in samples], axis=0) for key in samples[0]}
        estimates = divergence(pooled, *kind.windows.shape)
        kinds[name] = {
            "kl": interval(estimates["kl_mean"]),
            "perplexity_ratio": interval(estimates["perplexity_ratio"]),
            "kl_by_seed": [float(s["kl"].mean()) for s in samples],
            "tokens": [round(float(v), 5) for v in pooled["kl"]],
        }
    return {
        "name": row.name,
        "runtime": row.runtime,
        "how": row.how,
        "bytes": round(mean(contestant.nbytes for contestant, _ in runs)),
        "seeds": list(seeds),
        "sha256": [contestant.sha256 for contestant, _ in runs],
        "method": METHOD if row.calibrates else None,
        "gpu": gpu(runs[0][0]) if row.calibrates else None,
        "kinds": kinds,
    }


def gpu(contestant: Contestant) -> str | None:
    """Through which calibration text passed, where that was not the processor."""
    calibration = Artifact.open(contestant.folder).manifest.calibration
    return calibration.gpu if calibration else None


def joined(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """A point with the kinds of an earlier run besides, where it was of the same models."""
    if before is None or before.get("sha256") != now["sha256"]:
        return now
    return {**now, "kinds": {**before["kinds"], **now["kinds"]}}


def with_differences(points: Sequence[dict]) -> list[dict]:
    """The points with what each kind's divergence is less than PEER's, paired token by token."""
    names = (PEER.runtime, PEER.name, PEER.how)
    peers = [p for p in points if (p["runtime"], p["name"], p["how"]) == names]
    return [
        {**p, "kinds": {name: _less(p, peers[0], name) for name in p["kinds"]}} if peers else p
        for p in points
    ]


def _less(one: dict, peer: dict, name: str) -> dict:
    kind, other = one["kinds"][name], peer["kinds"].get(name)
    if one is peer or other is None or one["seeds"] != peer["seeds"]:
        return {key: value for key, value in kind.items() if key != "less"}
    if "tokens" not in kind or "tokens" not in other:  # measured on another machine
        return kind
    difference = np.subtract(kind["tokens"], other["tokens"])
    places = np.arange(len(difference))
    blocks = places // (WINDOW - 1) * WINDOW + places % (WINDOW - 1) // BLOCK
    found = estimate(np.mean, difference, unit="tokens", blocks=blocks)
    return {**kind, "less": interval(found)}


def earlier(protocol: dict) -> dict[tuple[str, str, str], dict]:
    """Rows of runs before, which stay. Their kinds join the protocol.

    Raises LabError where they were measured otherwise: they do not compare with what is to come.
    """
    path = WORK / "travel.json" if (WORK / "travel.json").exists() else RESULTS / "travel.json"
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    before = record["protocol"]
    known = {**protocol["kinds"], **before["kinds"]}
    merged = {**protocol, "kinds": {**known, **protocol["kinds"]}}
    if differing := [key for key in merged if merged[key] != {**before, "kinds": known}.get(key)]:
        raise LabError(
            f"{path} was measured otherwise ({', '.join(differing)}), so its rows do not compare",
            "move it away to begin a new table, or measure as it was",
        )
    protocol["kinds"] = {name: known[name] for name in KINDS if name in known}
    return {(p["runtime"], p["name"], p["how"]): p for p in record["points"]}


def describe(references: Mapping[str, tuple[Kind, DecoderReference]]) -> dict:
    """What was measured, on what, by what."""
    kinds = {
        name: {
            "sha256": kind.sha256,
            "windows": len(kind.windows),
            "tokens_scored": len(kind.windows) * (WINDOW - 1),
        }
        for name, (kind, _) in references.items()
    }
    return {
        "weights": f"the packaged GGUF dequantized, channels rescaled with sigma {SIGMA}",
        "kinds": kinds,
        "window": WINDOW,
        "importance_tokens": CALIBRATION * WINDOW,
        "reference": f"transformers on torch {version('torch')}, float32, before rescaling",
        "runtimes": versions(),
        "machine": machine(),
    }


def publish(points: Mapping[tuple[str, str, str], dict], protocol: dict) -> None:
    """Whatever is measured so far, as JSON and Markdown; single tokens' figures stay in WORK."""
    rows = sorted(points.values(), key=lambda p: (p["bytes"], p["how"]))
    record = {"protocol": protocol, "points": with_differences(rows)}
    (WORK / "travel.json").write_text(json.dumps(record))
    (RESULTS / "travel.json").write_text(json.dumps(without_tokens(record), indent=1) + "\n")
    (RESULTS / "travel.md").write_text(table(record["points"], protocol))


def without_tokens(found: Any) -> Any:
    """JSON without what stands under "tokens"."""
    if isinstance(found, list):
        return [without_tokens(value) for value in found]
    if isinstance(found, dict):
        return {key: without_tokens(value) for key, value in found.items() if key != "tokens"}
    return found


def table(points: Sequence[dict], protocol: dict) -> str:
    """Markdown: a row for each model, a column for each kind of text."""
    kinds = list(protocol["kinds"])
    rows = [["runtime", "model", "effort, solved on", "MB", "seeds", *kinds]]
    rows.append(["---", "---", "---", "---:", "---:", *["---"] * len(kinds)])
    for p in points:
        cells = [_cell(p["kinds"][name]) if name in p["kinds"] else "" for name in kinds]
        seeds = ", ".join(map(str, p["seeds"]))
        mb = f"{p['bytes'] / 1e6:.1f}"
        remarks = [f"by solvers {p['method']}"] if p.get("method") in OLDER else []
        remarks += [f"on an {p['gpu']}"] if p.get("gpu") else []
        how = ", ".join([p["how"], *remarks])
        rows.append([p["runtime"], f"`{p['name']}`", how, mb, seeds, *cells])
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    older = {p.get("method") for p in points} & OLDER.keys()
    before = "".join(f"Solvers {method}: {OLDER[method]}. " for method in sorted(older))
    scored = ", ".join(f"{v['tokens_scored']:,} of {k}" for k, v in protocol["kinds"].items())
    return (
        f"{lines}\n\nKL divergence from float32 in nats per token, in parentheses 95 % over text; "
        f"by seed; perplexity; and less than `{PEER.name}` by how much, paired token by token. "
        f"Tokens scored: {scored}. {protocol['weights']}. Effort: how much text is read; unless "
        "the row says otherwise, half of it is of WikiText-2's first half and half the model's "
        f"own. {before}"
        f"The importance matrix is of {protocol['importance_tokens']:,} tokens of that half.\n"
    )


def _cell(kind: Mapping[str, Any]) -> str:
    kl, ratio = kind["kl"], kind["perplexity_ratio"]["value"]
    text = f"**{kl['value']:.3f}** ({kl['low']:.3f} to {kl['high']:.3f})"
    if len(kind["kl_by_seed"]) > 1:
        text += "; " + ", ".join(f"{value:.3f}" for value in kind["kl_by_seed"])
    text += f"; {100 * (ratio - 1):+.1f} %"
    if less := kind.get("less"):
        text += f"; {less['value']:+.3f} ({less['low']:+.3f} to {less['high']:+.3f})"
    return text


if __name__ == "__main__":
    start(main)
