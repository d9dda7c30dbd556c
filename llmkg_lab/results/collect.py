"""The result of a report: what its cells measured, put together."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from msgspec import UNSET

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.machine import cpu_name
from llmkg_lab.base.version import __version__
from llmkg_lab.measure.quality import Quality
from llmkg_lab.measure.speed import Speed
from llmkg_lab.results.result import Origin, Result, SchemeResult, Subject
from llmkg_lab.results.verdict import Judgement, Verdict
from llmkg_lab.roster.catalog import Variant
from llmkg_lab.sources import Fetched

PACKAGES = ("onnxruntime", "torch", "transformers", "tokenizers", "onnx", "numpy")


def result_of(
    variant: Variant,
    fetched: Fetched,
    artifacts: Mapping[str, Artifact],
    qualities: Mapping[str, Quality],
    judgements: Mapping[str, Judgement],
    speeds: Mapping[str, Speed],
    out: Path,
    *,
    quick: bool = False,
) -> Result:
    """Put a report's measurements together; the mappings are by scheme.

    out: the folder that result.json will lie in, to which the paths of artifacts are relative.
    quick: whether it was a smoke run.
    """
    fingerprint = next(iter(artifacts.values())).manifest.source.fingerprint
    return Result(
        variant=Subject(variant.id, variant.title, variant.family),
        source=Origin(**fetched.origin, fingerprint=fingerprint),
        environment=environment(),
        schemes={
            name: SchemeResult(
                scheme=artifact.manifest.scheme,
                bytes=artifact.nbytes,
                bits_per_weight=artifact.bits_per_weight,
                artifact=artifact.folder.relative_to(out).as_posix(),
                groups=artifact.manifest.groups,
                quality=dict(qualities[name].metrics),
                protocol=dict(qualities[name].detail),
                speed=dict(speeds[name].metrics),
                conditions=dict(speeds[name].conditions),
                verdict=judgements[name].verdict,
                reasons=[*artifact.manifest.cautions, *judgements[name].reasons],
            )
            for name, artifact in artifacts.items()
        },
        verdict=Verdict.worst(judgement.verdict for judgement in judgements.values()),
        quick=quick or UNSET,
    )


def environment() -> dict[str, str | int | None]:
    """The machine and the versions that the numbers depend on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "llmkg_lab": __version__,
        **{name: version(name) for name in PACKAGES},
    }
