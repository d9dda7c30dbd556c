"""What the command line shows: errors and tables. JSON goes to stdout alone."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import clock
from llmkg_lab.batch.states import RunState
from llmkg_lab.results.verdict import Verdict

LOG_WIDTH = 120  # columns where there is no terminal to ask

out = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
# errors and how far a batch is: stdout stays clean for a program
err = Console(stderr=True, width=None if sys.stderr.isatty() else LOG_WIDTH)
STYLES: dict[str, str] = {
    Verdict.PASS: "green",
    Verdict.BELOW_TARGET: "yellow",
    Verdict.UNDECIDED: "yellow",
    Verdict.FAIL: "bold red",
    RunState.DONE: "green",
    RunState.RUNNING: "cyan",
    RunState.FAILED: "bold red",
    RunState.UNREADABLE: "bold red",
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


def print_note(note: str) -> None:
    """What a user may want to know, beside the answer."""
    err.print(note, style="dim", soft_wrap=True, markup=False, highlight=False)


def print_warnings(warnings: Iterable[str]) -> None:
    """What a user must know and need not act on, a line each."""
    for warning in warnings:
        err.print(Text.assemble(("warning: ", "bold yellow"), warning), soft_wrap=True)


def print_beforehand(name: str, effort: str, seconds: float) -> None:
    """How long a conversion is going to take, before it begins."""
    about = f"about {clock(seconds)}" if seconds >= 1 else "a second or less"
    err.print(f"{name}, effort {effort}: {about} on this machine", highlight=False)


EMPTY = "the model gave no text: it ended its answer at once"


def print_speed(speed: object, shown: bool) -> None:
    """How fast a text was made, on stderr; and that there is none, where there is none."""
    if not shown:
        err.print(Text(EMPTY, style="yellow"), soft_wrap=True)
    err.print(Text(f"[{speed}]", style="dim"), soft_wrap=True)


def state(word: str) -> Text:
    """A state or verdict in its colour."""
    return Text(word, style=STYLES.get(word, ""))


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """A plain table; columns in which every cell begins with a digit align right."""
    grid = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = rows and all(str(row[i])[:1].isdigit() or not str(row[i]) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
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


def print_conversion(conversion: dict) -> None:
    """A conversion's totals, then size and rounding error by group of tensors."""
    *before, writing = [f"{name} {took:.1f} s" for name, took in conversion["steps"].items()]
    steps = ", ".join([*before, f"{writing} at {conversion['megabytes_per_second']:,.0f} MB/s"])
    out.print(
        f"[bold]{conversion['scheme']}[/] ({conversion['meaning']}): "
        f"{conversion['bytes'] / 1e6:.1f} MB, "
        f"{conversion['bits_per_weight']:.2f} bits per weight, in {conversion['seconds']:.1f} s "
        f"({steps}) → ",
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
    out.print(table(("group", "tensors", "MB", "bits per weight", "RMS error"), rows), "")
    out.print(Text(f"To use it: llmkg-lab {conversion['use']}"), "", soft_wrap=True)


def roster_table(rows: Sequence[dict]) -> Table:
    """The rows of ``llmkg-lab list``."""
    return table(
        ("variant", "tier", "parameters", "licence", "sources", "runtimes", "last run"),
        [
            (
                row["id"],
                str(row["tier"]),
                f"{row['parameters'] / 1e6:,.0f} M" if row["parameters"] else "",
                row["license"],
                _marked((entry["kind"], entry["available"]) for entry in row["sources"]),
                _marked((entry["runtime"], not entry["reason"]) for entry in row["runtimes"]),
                _states(row["last_run"], row["apart"]),
            )
            for row in rows
        ],
    )


def _states(main: str, apart: Mapping[str, str]) -> Text:
    """The state of a variant's report, and of those that lie apart (synthetic, quick …)."""
    others = [f" · {where}: {word}" for where, word in apart.items()]
    return Text.assemble(state(main), *((other, "dim") for other in others))


def _marked(entries: Iterable[tuple[str, bool]]) -> Text:
    """Names, each behind a mark that says whether it is there."""
    marks = {True: ("✓ ", "green"), False: ("✗ ", "dim")}
    return Text.assemble(*(part for name, there in entries for part in (marks[there], f"{name}  ")))
