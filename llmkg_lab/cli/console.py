"""What the command line shows: errors, tables, progress bars. JSON goes to stdout alone."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from llmkg_lab.base.errors import LabError

if TYPE_CHECKING:
    from llmkg_lab.graph.store import Progress as ProgressCallback

LOG_WIDTH = 120  # columns where there is no terminal to ask

out = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
# progress and errors: stdout stays clean for a program
err = Console(stderr=True, width=None if sys.stderr.isatty() else LOG_WIDTH)
STYLES = {
    "pass": "green",
    "done": "green",
    "below target": "yellow",
    "fail": "bold red",
    "failed": "bold red",
    "running": "cyan",
}


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_error(error: LabError) -> None:
    """The message and, below it, what to do next."""
    err.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        err.print(Text.assemble(("  → ", "cyan"), error.hint), soft_wrap=True)


def state(word: str) -> Text:
    """A state or verdict in its colour."""
    return Text(word, style=STYLES.get(word, ""))


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """A plain table; columns in which every cell begins with a digit align right."""
    grid = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = rows and all(str(row[i])[:1].isdigit() or not str(row[i]) for row in rows)
        justify = "right" if numeric else "left"
        grid.add_column(column, justify=justify, header_style="dim", no_wrap=i == 0)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return grid


def fact(value: Any) -> str:
    """A value of a profile, as people read it; large whole numbers are bytes."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and value > 1e6:
        return f"{value / 1e9:.1f} GB"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


@contextmanager
def transfer_bar(name: str) -> Iterator["ProgressCallback"]:
    """A callback for ``convert`` and ``fetch`` that draws bytes, rate and time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(name, total=None)

        def update(done: int, total: int, tensor: str) -> None:
            progress.update(task, completed=done, total=total)

        yield update


def print_conversion(conversion: dict) -> None:
    """A conversion's totals, then size and rounding error by group of tensors."""
    out.print(
        f"[bold]{conversion['scheme']}[/]: {conversion['bytes'] / 1e6:.1f} MB, "
        f"{conversion['bits_per_weight']:.2f} bits a weight, in {conversion['seconds']:.1f} s "
        f"({conversion['megabytes_per_second']:,.0f} MB/s) → ",
        Text(conversion["artifact"]),
        sep="",
        soft_wrap=True,
        highlight=False,
    )
    rows = [
        (
            group["name"],
            str(group["tensors"]),
            f"{group['bytes'] / 1e6:.1f}",
            f"{group['bits_per_weight']:.2f}",
            f"{group['rms_error']:.2%}",
        )
        for group in conversion["groups"]
    ]
    out.print(table(("group", "tensors", "MB", "bits a weight", "RMS error"), rows), "")


def roster_table(rows: Sequence[dict]) -> Table:
    """The rows of ``llmkg-lab list``."""
    return table(
        ("variant", "family", "tier", "parameters", "licence", "sources", "last run"),
        [
            (
                row["id"],
                row["family"],
                str(row["tier"]),
                f"{row['parameters'] / 1e6:,.0f} M" if row["parameters"] else "",
                row["license"],
                _sources(row["sources"]),
                state(row["last_run"]),
            )
            for row in rows
        ],
    )


def _sources(sources: Sequence[dict]) -> Text:
    marks = [("✓ ", "green") if entry["available"] else ("✗ ", "dim") for entry in sources]
    kinds = [entry["kind"] for entry in sources]
    parts = [part for mark, kind in zip(marks, kinds, strict=True) for part in (mark, f"{kind}  ")]
    return Text.assemble(*parts)
