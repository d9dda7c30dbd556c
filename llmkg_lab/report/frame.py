"""A conversion report's frame: its folder and its headline."""

import html
from pathlib import Path

from IPython.display import HTML, display

from llmkg_lab.base import paths
from llmkg_lab.report import tables
from llmkg_lab.results.result import Result
from llmkg_lab.roster.catalog import Variant


def output_folder(variant: Variant, out: str = "") -> Path:
    """Where a report's files go; by default apart from the batch's."""
    folder = Path(out) if out else paths.outputs() / "notebooks" / variant.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
        if result.quick is True:
            warning += "<p><b>A smoke run: its figures are far too few to judge by.</b></p>"
        revision = source.revision or "no revision"
        origin = f"{source.detail} · {revision} · SHA-256 {source.fingerprint[:12]}…"
        self._handle.update(
            HTML(
                f"{warning}<h2>{self._title}: {tables.badge(result.verdict)}</h2>"
                f"<p>{html.escape(origin)}</p>{tables.headline(result.schemes).data}"
            )
        )
