"""Measured artifacts as points in the plane of bytes and KL divergence: ours and the peers'."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmkg_lab.base import paths

OURS = "llmkg-lab"


@dataclass(frozen=True)
class Point:
    """One artifact that was measured."""

    label: str  # its scheme, or the peer's type
    maker: str  # OURS, or the peer's name
    nbytes: int
    kl: float  # mean, nats a token
    low: float | None  # 95 % interval
    high: float | None
    tokens: int  # scored


def reported(variant: str, fingerprint: str) -> list[Point]:
    """What the reports under outputs/ measured of a variant's weights, the latest of a scheme.

    fingerprint: of the checkpoint; reports on other weights are left out.
    """
    found: dict[str, Point] = {}
    files = [path for path in paths.outputs().glob(f"*/{variant}/result.json") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        for point in _of_result(path, fingerprint):
            found[point.label] = point
    return list(found.values())


def _of_result(path: Path, fingerprint: str) -> Iterator[Point]:
    try:
        result = json.loads(path.read_bytes())
        if result["source"]["fingerprint"] != fingerprint:
            return
        for scheme, entry in result["schemes"].items():
            if kl := entry["quality"].get("kl_mean"):
                yield Point(
                    scheme, OURS, entry["bytes"], kl["value"], kl["low"], kl["high"], kl["n"]
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # a report of another version, or half written: it has no say here


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats in both size and divergence, by size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.nbytes, point.kl)):
        if not best or point.kl < best[-1].kl:
            best.append(point)
    return best
