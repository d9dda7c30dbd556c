"""Measured artifacts as points in the plane of bytes and KL divergence: ours and the peers'."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmkg_lab.base import paths
from llmkg_lab.results.result import Result, results

OURS = "llmkg-lab"


@dataclass(frozen=True)
class Point:
    """One artifact that was measured."""

    label: str  # its scheme, or the peer's type
    maker: str  # OURS, or the peer's name
    nbytes: int
    kl: float  # mean, nats per token
    low: float | None  # 95 % interval
    high: float | None
    tokens: int  # scored


def reported(variant: str, fingerprint: str, text: str) -> list[Point]:
    """What the reports under outputs/ measured of a variant's weights, the latest of a scheme.

    fingerprint: of the checkpoint; text: the SHA-256 of the corpus. What was measured of other
    weights or on another text does not compare, and is left out.
    """
    found: dict[str, Point] = {}
    latest = sorted(results(paths.outputs(), variant), key=lambda item: item[0].stat().st_mtime)
    for _, result in latest:
        if result.source.fingerprint == fingerprint:
            found |= {point.label: point for point in _points(result, text)}
    return list(found.values())


def _points(result: Result, text: str) -> Iterator[Point]:
    for entry in result.schemes.values():
        kl = entry.quality.get("kl_mean")
        if kl and entry.protocol.get("sha256") == text and result.quick is not True:
            label = entry.scheme.recipe
            yield Point(label, OURS, entry.bytes, kl.value, kl.low, kl.high, kl.n)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats in both size and divergence, by size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.nbytes, point.kl)):
        if not best or point.kl < best[-1].kl:
            best.append(point)
    return best
