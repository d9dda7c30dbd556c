"""A conversion report's frame: its folder and its headline."""

import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from IPython.display import HTML, display

from llmkg_lab.base import paths
from llmkg_lab.measure.speed import Workload
from llmkg_lab.report import tables
from llmkg_lab.results.result import Result
from llmkg_lab.roster.catalog import Evaluation, Variant
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import Fetched


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

    def update(self, result: Result) -> None:
        """Replace the placeholder by the answers: which model, did it pass, bytes, loss, speed."""
        source = result.source
        warning = ""
        if source.synthetic:
            warning = "<p><b>The weights are synthetic: quality figures mean nothing.</b></p>"
        revision = source.revision or "no revision"
        origin = f"{source.detail} · {revision} · SHA-256 {source.fingerprint[:12]}…"
        self._handle.update(
            HTML(
                f"{warning}<h2>{self._title}: {tables.badge(result.verdict)}</h2>"
                f"<p>{html.escape(origin)}</p>{tables.headline(result.schemes).data}"
            )
        )
