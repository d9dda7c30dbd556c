"""What was measured of an artifact, found by the artifact: for what is made of it."""

from pathlib import Path
from typing import Any

from llmkg_lab.artifact import Artifact
from llmkg_lab.results.choice import brief
from llmkg_lab.results.result import Result, ResultError, SchemeResult
from llmkg_lab.roster.metrics import METRICS

LEVELS = 2  # folders above an artifact that may hold its report's result: outputs/…/artifacts/NAME


def facts(artifact: Artifact) -> dict[str, Any]:
    """Return what its report measured of ``artifact``, as JSON; empty where there is no report.

    A result counts if it names this folder and these weights.
    """
    folder = artifact.folder.resolve()
    for parent in list(folder.parents)[:LEVELS]:
        try:
            result = Result.find(parent)
        except ResultError:
            continue
        if result and (entry := _entry(result, parent, folder, artifact)):
            return _facts(result, entry)
    return {}


def _entry(result: Result, parent: Path, folder: Path, artifact: Artifact) -> SchemeResult | None:
    if result.source.fingerprint != artifact.manifest.source.fingerprint:
        return None
    entries = result.schemes.values()
    return next((e for e in entries if (parent / e.artifact).resolve() == folder), None)


def _facts(result: Result, entry: SchemeResult) -> dict[str, Any]:
    """The figures with their titles, and one line for people."""
    quality = {
        name: {"title": METRICS[name].heading, "value": e.value, "low": e.low, "high": e.high}
        for name, e in entry.quality.items()
        if name in METRICS
    }
    speed = {
        name: {"title": METRICS[name].heading, "value": m.value}
        for name, m in entry.speed.items()
        if name in METRICS
    }
    return {
        "summary": brief(entry),
        "verdict": str(entry.verdict),
        "smoke": result.quick is True or result.source.synthetic,  # figures that mean little
        "quality": quality,
        "speed": speed,
        "machine": result.environment.get("cpu"),
    }
