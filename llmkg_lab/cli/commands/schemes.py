"""The command that says which scheme to take."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkg_lab.cli import console
from llmkg_lab.cli.application import Json, Outputs, app, examples, variant_ids

if TYPE_CHECKING:
    from llmkg_lab.presets import Kind
    from llmkg_lab.results.result import Result

COLUMNS = ("take", "when", "which is", "MB", "loss", "elsewhere", "ms here", "made in")


@app.command(epilog=examples("schemes", "schemes smollm2_135m_instruct", "schemes --json"))
def schemes(
    variant: Annotated[
        str | None,
        typer.Argument(
            help="A variant: what its own reports measured.", autocompletion=variant_ids
        ),
    ] = None,
    out: Outputs = None,
    as_json: Json = False,
) -> None:
    """Say which scheme to take: presets with their sizes, losses and times, and what names mean.

    Figures are measured: of one model of each kind, or, where a variant is named that has
    reports in the outputs folder, of that one.
    """
    from llmkg_lab.base import paths
    from llmkg_lab.presets import DEFAULT, kinds

    if variant:
        _of_variant(variant, out or paths.outputs(), as_json)
        return
    if as_json:
        shown = {name: [*_entries(kind)] for name, kind in kinds().items()}
        console.print_json({"take": DEFAULT, "kinds": shown})
        return
    console.out.print(
        f"Take [bold]{DEFAULT}[/], the default, unless one of these is what you want.\n"
    )
    for kind in kinds().values():
        said = f"[bold]{_plural(kind.name)}[/], measured on {kind.model}: {kind.text}"
        console.out.print(said, highlight=False)
        rows = list(_rows(_entries(kind)))
        columns = [f"{name}, {kind.loss}" if name == "loss" else name for name in COLUMNS]
        console.out.print(console.table(columns, rows))
        console.out.print(f"{_times(kind)}\n", highlight=False)
    _print_names()


def _times(kind: "Kind") -> str:
    """What the times in a table are, or how to get some."""
    from llmkg_lab.presets import speeds

    if speeds.remembered(kind.name):
        return f"[dim]ms here: {speeds.described(kind.name)}, timed on this processor[/]"
    return "[dim]Times of this processor, and what fast is here: llmkg-lab device --measure[/]"


def _plural(kind: str) -> str:
    return {"decoder": "Language models", "encoder": "Embedders and rerankers"}[kind]


def _entries(kind: "Kind") -> Iterable[dict[str, Any]]:
    """Every preset of a kind, with its rule, its recipe in words and what was measured of it."""
    from llmkg_lab.presets import RULES, fact_of, recipe_of
    from llmkg_lab.presets.words import plain
    from llmkg_lab.scheme import Scheme

    for preset, rule in RULES.items():
        fact = fact_of(preset, kind.name)
        recipe = recipe_of(preset, kind.name)
        entry = {"preset": preset, "rule": rule.words, "when": rule.when, "recipe": recipe}
        entry["words"] = plain(Scheme.parse(recipe))
        yield entry | ({"measured": asdict(fact) | {"ms": kind.latency(fact)}} if fact else {})


def _rows(entries: Iterable[dict[str, Any]]) -> Iterable[list[str]]:
    """A row per preset; one that is the same as another before it says so."""
    before: dict[str, str] = {}
    for entry in entries:
        name, recipe, measured = entry["preset"], entry["recipe"], entry.get("measured")
        known = before.setdefault(recipe, name)
        which = f"{recipe} ({entry['words']})" if known == name else f"at present as {known}"
        figures = _figures(measured) if measured and known == name else ["", "", "", "", ""]
        yield [name, entry["when"], which, *figures]


def _figures(fact: dict[str, Any]) -> list[str]:
    value, low, high = fact["loss"]
    elsewhere = f"{fact['elsewhere']:.1f} %" if fact["elsewhere"] is not None else ""
    ms = f"{fact['ms']:.1f}" if fact["ms"] is not None else ""
    return [
        f"{fact['megabytes']:.1f}",
        f"{value:.1f} % ({low:.1f} to {high:.1f})",
        elsewhere,
        ms,
        fact["minutes"],
    ]


def _print_names() -> None:
    from llmkg_lab.presets.words import PARTS

    console.out.print(
        "[bold]Recipes[/] say exactly how, such as int4-s16-gptq-e8b64sym. Their names' parts:"
    )
    console.out.print(console.table(("part", "means"), PARTS))
    console.out.print(
        "\nElsewhere: the loss on text of another kind than the scheme was calibrated on.\n"
        "Several schemes: --scheme small,int8. A size of your own: --scheme 100MB."
    )


def _of_variant(name: str, outputs: Any, as_json: bool) -> None:
    """What a variant's own report says of its schemes."""
    from llmkg_lab.base.errors import LabError
    from llmkg_lab.results.result import Result
    from llmkg_lab.roster.catalog import find_variant

    variant = find_variant(name)
    result = Result.find(outputs / variant.family / variant.id)
    if result is None:
        raise LabError(
            f"{name} has no report in {outputs}",
            f"make one with llmkg-lab run {name}, or leave the variant out for figures of its kind",
        )
    entries = list(_measured(result))
    taken = next((entry["scheme"] for entry in entries if entry["taken"]), None)
    if as_json:
        console.print_json({"take": taken, "schemes": entries})
        return
    console.out.print(_answer(result) + "\n")
    rows = [(e["scheme"], e["verdict"], e["brief"], e["words"]) for e in entries]
    console.out.print(console.table(("scheme", "verdict", "measured", "which is"), rows))


def _measured(result: "Result") -> Iterable[dict[str, Any]]:
    from llmkg_lab.presets.words import explained
    from llmkg_lab.results.choice import brief, choose

    choice = choose(result.schemes)
    for name, entry in result.schemes.items():
        meaning = entry.scheme.meaning
        yield {
            "scheme": name,
            "taken": choice is not None and choice.scheme == name,
            "verdict": entry.verdict,
            "brief": brief(entry),
            "words": explained(meaning) if meaning else "",
        }


def _answer(result: "Result") -> str:
    from llmkg_lab.results.choice import choose

    choice = choose(result.schemes)
    if choice is None:
        return f"{result.variant.title}: no artifact holds its limits, take none."
    return f"{result.variant.title}: take [bold]{choice.scheme}[/], {choice.reason}."
