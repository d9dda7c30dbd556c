"""What other quantizers reach on the same model, from the benchmark's own results."""

import json
from dataclasses import dataclass

from llmkg_lab.base import paths
from llmkg_lab.explorer.questions.points import OURS, Point

RESULTS = "benchmarks/results/quality.json"
OURS_THERE = f"{OURS}, benchmark"


@dataclass(frozen=True)
class Peers:
    """The benchmark's points, ours among them as OURS_THERE, and a note.

    The note tells the benchmark's protocol, or how to get one where there is none.
    """

    points: list[Point]
    note: str


def peers_of(variant: str, fingerprint: str, text: str) -> Peers:
    """What ``benchmarks/quality.py`` measured of a variant, where it compares.

    fingerprint: of the checkpoint; text: the SHA-256 of the corpus that is read here. Points of
    other weights or of another text belong into no figure with ours.
    """
    try:
        record = json.loads((paths.ROOT / RESULTS).read_bytes())
        if record["model"] != variant:
            return Peers([], f"Without peers: the benchmark measures {record['model']}.")
        protocol = record["protocol"]
        if fingerprint not in protocol.get("fingerprints", ()):
            note = "Without peers: the benchmark measures other weights"
            return Peers([], f"{note} ({protocol['weights']}).")
        if text != protocol["sha256"]:
            return Peers([], f"Without peers: the benchmark reads {protocol['corpus']}.")
        points = [_point(entry) for entry in record["points"]]
        seeds: list[list[int]] = [entry["seeds"] for entry in record["points"]]
        most = max(seeds, key=len)
        listed = ", ".join(map(str, most))
        note = (
            f"Peers and {OURS_THERE}: {protocol['tokens_scored']:,} tokens of "
            f"{protocol['corpus']}; weights: {protocol['weights']}, seeds {listed} as far as "
            "measured."
        )
    except OSError:
        note = (
            "Without peers. To have llama.cpp and onnxruntime-genai quantize the same model and "
            f"be measured: make quality. It leaves {RESULTS}, which is read here."
        )
        return Peers([], note)
    except (ValueError, KeyError, TypeError) as error:
        return Peers([], f"{RESULTS} cannot be read ({error!r}): run make quality again.")
    return Peers(points, note)


def _point(entry: dict) -> Point:
    maker = OURS_THERE if entry["runtime"] == OURS else entry["runtime"]
    kl = entry["kl"]
    return Point(entry["name"], maker, entry["bytes"], kl["value"], kl["low"], kl["high"], kl["n"])
