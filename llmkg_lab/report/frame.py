"""A conversion report's frame: its folder and its headline."""

import html
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path

from IPython.display import HTML, display

from llmkg_lab.base import paths
from llmkg_lab.report import tables
from llmkg_lab.report.page import HEADLINE
from llmkg_lab.results.choice import brief, choose
from llmkg_lab.results.result import Result
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster.catalog import Variant

SYNTHETIC = "The weights are synthetic: quality figures mean nothing."
QUICK = "A smoke run: its figures are far too few to judge by."
WARNING = "border-left:.3em solid #cf222e;padding-left:.6em"
VERSIONS = ("llmkg_lab", "onnxruntime", "torch", "transformers", "python")


def output_folder(variant: Variant, out: str = "") -> Path:
    """Where a report's files go; by default apart from the batch's."""
    folder = Path(out) if out else paths.outputs() / "notebooks" / variant.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Headline:
    """The verdict at the top of a report: shown first, filled in by the last cell."""

    def __init__(self, variant: Variant) -> None:
        self._began = time.monotonic()
        waiting = (
            f"<h2>{html.escape(variant.title)}</h2><p>Measuring … the verdict appears here.</p>"
        )
        self._handle = display(HTML(_framed(waiting)), display_id=True)

    def update(self, result: Result, folder: Path, stored: str, command: str) -> None:
        """Replace the placeholder by the answers; the arguments are those of ``answers``."""
        seconds = time.monotonic() - self._began
        self._handle.update(HTML(answers(result, folder, stored, command, seconds)))


def answers(result: Result, folder: Path, stored: str, command: str, seconds: float) -> str:
    """What to take and why, bytes, loss and speed, and what that rests on, as HTML.

    folder: of the report; stored: how the checkpoint stores its weights; command: what uses an
    artifact, with {} where its folder belongs; seconds: that the report took.
    """
    parts = [
        *_warnings(result),
        _chosen(result, folder, command),
        tables.headline(result.schemes).data,
        _facts(result, stored, seconds),
    ]
    return _framed("".join(parts))


def _framed(content: str) -> str:
    return f'<div class="{HEADLINE}">{content}</div>'


def _warnings(result: Result) -> list[str]:
    """What a reader has to know before any figure."""
    said = {SYNTHETIC: result.source.synthetic, QUICK: result.quick is True}
    return [f'<p style="{WARNING}"><b>{text}</b></p>' for text, is_so in said.items() if is_so]


def _chosen(result: Result, folder: Path, command: str) -> str:
    """The artifact to take, why, where it lies, and what to type."""
    title, choice = html.escape(result.variant.title), choose(result.schemes)
    if choice is None:
        none = "No artifact holds its limits: take none of them."
        return f"<h2>{title}: {tables.badge(Verdict.FAIL)}</h2><p>{none}</p>"
    means_little = result.source.synthetic or result.quick is True
    word = "Figures like these would say: take" if means_little else "Take"
    name, path = html.escape(choice.scheme), folder / choice.entry.artifact
    typed = f"llmkg-lab {command.format(shlex.quote(str(path)))}"
    return (
        f"<h2>{title}: {name} {tables.badge(choice.entry.verdict)}</h2>"
        f"<p>{word} <b>{name}</b> ({tables.words_of(choice.entry.scheme)}), {choice.reason}: "
        f"{brief(choice.entry)}. It lies in <code>{html.escape(str(path))}</code>; "
        f"to use it:</p><pre>{html.escape(typed)}</pre>"
    )


def _facts(result: Result, stored: str, seconds: float) -> str:
    """From what, when, how long and by which versions it was measured."""
    source = result.source
    revision = source.revision or "no revision"
    minutes, rest = divmod(round(seconds), 60)
    took = f"{minutes} min {rest} s" if minutes else f"{rest} s"
    versions = (f"{name} {result.environment.get(name)}" for name in VERSIONS)
    lines = (
        f"Weights: {source.detail} · {revision} · SHA-256 {source.fingerprint[:12]}…",
        f"Reference: these weights (tensors: {stored}), computed by PyTorch in float32",
        f"Measured: {datetime.now(UTC):%d %B %Y, %H:%M} UTC, in {took}, "
        f"on {result.environment.get('cpu')}",
        f"Versions: {', '.join(versions)}",
    )
    return f"<p><small>{'<br>'.join(map(html.escape, lines))}</small></p>"
