"""Commands about the machine: what it is, and what of it the cache takes."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from llmkg_lab.cli import console
from llmkg_lab.cli.application import Json, Outputs, app, examples


@app.command(epilog=examples("device", "device --measure", "device --json"))
def device(
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Time the schemes on this processor: half a minute."),
    ] = False,
    out: Outputs = None,
    as_json: Json = False,
) -> None:
    """Describe this machine, and recommend a variant, a scheme and a number of threads for it.

    From measured facts in the outputs folder where there are any, and from the profile else. What
    --measure times is kept, and the scheme `fast` follows it.
    """
    from llmkg_lab.base import paths
    from llmkg_lab.base.machine import profile
    from llmkg_lab.results.recommendation import recommend

    timed = _time_schemes() if measure else _timed_before()
    found = profile()
    advice = recommend(found, out or paths.outputs())
    if as_json:
        advised = [asdict(recommendation) for recommendation in advice]
        console.print_json({"profile": asdict(found), "recommendations": advised, "ms": timed})
        return
    facts = [(name.replace("_", " "), console.fact(value)) for name, value in asdict(found).items()]
    console.out.print(console.table(("device", ""), facts), "")
    advised_rows = [(entry.what, entry.value, entry.reason) for entry in advice]
    console.out.print(console.table(("recommended", "", "because"), advised_rows))
    for kind, times in timed.items():
        _print_times(kind, times)


def _time_schemes() -> dict[str, dict[str, float]]:
    """Time every kind's recipes on this processor, and keep the times."""
    from llmkg_lab.base.bar import Bar
    from llmkg_lab.measure.candidates import measure as time_recipes
    from llmkg_lab.presets import kinds, speeds

    timed = {}
    with Bar() as progress:
        for kind in kinds():
            timed[kind] = time_recipes(kind, progress)
            speeds.remember(kind, timed[kind])
    return timed


def _timed_before() -> dict[str, dict[str, float]]:
    from llmkg_lab.presets import kinds, speeds

    return {kind: times for kind in kinds() if (times := speeds.remembered(kind))}


def _print_times(kind: str, times: dict[str, float]) -> None:
    """Recipes by their times, and which of them fast is."""
    from llmkg_lab.presets import recipe_of
    from llmkg_lab.presets.speeds import described

    fast = recipe_of("fast", kind)
    rows = [
        (recipe, f"{ms:.2f}", "fast" if recipe == fast else "")
        for recipe, ms in sorted(times.items(), key=lambda item: item[1])
    ]
    console.out.print("", console.table((described(kind), "ms", ""), rows))


@app.command(epilog=examples("cache", "cache --clear synthetic --clear packed"))
def cache(
    clear: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Remove this kind, or all of them. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is kept on the disk so that it need not be computed again, and remove it.

    Nothing that cannot be computed again is kept there. LLMKG_LAB_CACHE moves it elsewhere;
    downloads lie in the cache of the Hugging Face Hub, which `hf cache` looks after.
    """
    from llmkg_lab.base import cache, paths
    from llmkg_lab.base.errors import LabError

    found = cache.kept()
    kinds = [entry.kind for entry in found]
    wanted = kinds if "all" in (clear or ()) else clear or []
    if unknown := [kind for kind in wanted if kind not in kinds]:
        there = f"there is {', '.join(kinds)}" if kinds else "it is empty"
        raise LabError(f"the cache in {paths.cache()} has no {', '.join(unknown)}", there)
    freed = cache.clear(wanted) if wanted else 0  # it looks at every file
    if as_json:
        entries = [asdict(entry) for entry in cache.kept()]
        console.print_json({"folder": str(paths.cache()), "freed": freed, "kinds": entries})
        return
    if wanted:
        console.out.print(f"{freed / 1e6:,.0f} MB freed")
        return
    rows = [
        (
            entry.kind,
            f"{entry.nbytes / 1e6:,.1f}",
            str(entry.entries),
            f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}",
            entry.spares,
        )
        for entry in found
    ]
    console.out.print(console.table(("kind", "MB", "entries", "changed", "spares"), rows))
    console.out.print(f"{sum(entry.nbytes for entry in found) / 1e6:,.0f} MB in {paths.cache()}")
