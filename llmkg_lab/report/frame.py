"""A conversion report's frame: its folder, its headline, and result.json for programs."""

import html
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from IPython.display import HTML, display

from llmkg_lab.artifact import Artifact
from llmkg_lab.base import files, paths
from llmkg_lab.base.version import __version__
from llmkg_lab.measure.quality import Quality, Verdict
from llmkg_lab.measure.speed import Speed, Workload, cpu_name
from llmkg_lab.report import tables
from llmkg_lab.roster.catalog import Evaluation, Variant
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import Fetched

FORMAT = "llmkg-lab/result/1"
PACKAGES = ("onnxruntime", "torch", "transformers", "tokenizers", "onnx", "numpy")
WORST_FIRST = ("fail", "below target", "pass")


def output_folder(variant: Variant, out: str = "") -> Path:
    """Where a report's files go; by default apart from the batch's."""
    folder = Path(out) if out else paths.outputs() / "notebooks" / variant.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def source_of(fetched: Fetched) -> dict:
    """What the manifest and the result say of the source."""
    names = ("kind", "detail", "revision", "synthetic")
    return {name: getattr(fetched, name) for name in names}


def quick_evaluation(evaluation: Evaluation) -> Evaluation:
    """Enough to see that everything works; far too little to judge by."""
    small = {"tokens": 256, "window": 128, "continuation": 16, "sentences": 40}
    return replace(evaluation, **small, prompts=evaluation.prompts[:2])


def choose(variant: Variant, schemes: Sequence[str], quick: bool) -> list[str]:
    """The schemes of a report: those asked for, or the variant's own.

    Of its own, a smoke run leaves out those that calibrate: they take minutes.
    """
    own = [name for name in variant.schemes if not (quick and Scheme.parse(name).method == "gptq")]
    return list(schemes) or own


def effort(quick: bool) -> dict:
    """Arguments of speed.measure: a full measurement, or a few samples from one process."""
    if not quick:
        return {}
    few = Workload(prompt_tokens=32, prefills=1, decode_steps=10, embeddings=10, batches=2)
    return {"workload": few, "processes": 1}


class Headline:
    """The verdict at the top of a report: shown first, filled in by the last cell."""

    def __init__(self, variant: Variant) -> None:
        self._title = html.escape(variant.title)
        waiting = f"<h2>{self._title}</h2><p>Measuring … the verdict appears here.</p>"
        self._handle = display(HTML(waiting), display_id=True)

    def update(self, result: Mapping) -> None:
        """Replace the placeholder by the answers: which model, did it pass, bytes, loss, speed."""
        source, state = result["source"], result["verdict"]
        warning = ""
        if source["synthetic"]:
            warning = "<p><b>The weights are synthetic: quality figures mean nothing.</b></p>"
        revision = source["revision"] or "no revision"
        origin = f"{source['detail']} · {revision} · SHA-256 {source['fingerprint'][:12]}…"
        self._handle.update(
            HTML(
                f"{warning}<h2>{self._title}: {tables.badge(state)}</h2>"
                f"<p>{html.escape(origin)}</p>{tables.headline(result['schemes']).data}"
            )
        )


def build_result(
    variant: Variant,
    fetched: Fetched,
    artifacts: Mapping[str, Artifact],
    qualities: Mapping[str, Quality],
    verdicts: Mapping[str, Verdict],
    speeds: Mapping[str, Speed],
    out: Path,
) -> dict:
    """result.json as docs/design.md describes it; the mappings are by scheme."""
    schemes = {}
    for name, artifact in artifacts.items():
        schemes[name] = {
            "scheme": artifact.manifest["scheme"],
            "bytes": artifact.nbytes,
            "bits_per_weight": artifact.bits_per_weight,
            "artifact": artifact.folder.relative_to(out).as_posix(),
            "groups": artifact.manifest["groups"],
            "quality": {key: asdict(value) for key, value in qualities[name].metrics.items()},
            "protocol": qualities[name].detail,
            "speed": {key: asdict(value) for key, value in speeds[name].metrics.items()},
            "conditions": speeds[name].conditions,
            "verdict": verdicts[name].state,
            "reasons": [*_warnings(artifact), *verdicts[name].reasons],
        }
    states = {verdict.state for verdict in verdicts.values()}
    fingerprint = next(iter(artifacts.values())).manifest["source"]["fingerprint"]
    return {
        "format": FORMAT,
        "variant": {"id": variant.id, "title": variant.title, "family": variant.family},
        "source": {**source_of(fetched), "fingerprint": fingerprint},
        "environment": environment(),
        "schemes": schemes,
        "verdict": next(state for state in WORST_FIRST if state in states),
    }


def _warnings(artifact: Artifact) -> list[str]:
    """What a reader must know of how the artifact was made."""
    calibration = artifact.manifest.get("calibration") or {}
    return [calibration["warning"]] if "warning" in calibration else []


def environment() -> dict:
    """What the numbers depend on: the machine and the versions."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "llmkg_lab": __version__,
        **{name: version(name) for name in PACKAGES},
    }


def save(result: Mapping, out: str | Path) -> Path:
    """Write result.json into ``out``, whole or not at all."""
    path = Path(out) / "result.json"
    files.write(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return path
