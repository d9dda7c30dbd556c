"""Commands on the models of the roster: list, run."""

import os
from dataclasses import asdict
from typing import Annotated

import typer

from llmkg_lab.cli import console
from llmkg_lab.cli.application import Family, Json, Outputs, Tier, Variants, app, examples


@app.command("list", epilog=examples("list", "list --family minilm --json"))
def list_variants(
    family: Family = None,
    tier: Tier = None,
    out: Outputs = None,
    as_json: Json = False,
) -> None:
    """List the roster: tier, parameters, licence, sources, runtimes and the state of the last run.

    A source is marked ✓ where it can serve without a network: a package or folder that is
    here, a repository in the Hub's cache; a runtime where it is installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else each variant would wait for the Hub
    from llmkg_lab.base import paths
    from llmkg_lab.batch import jobs as batch
    from llmkg_lab.models import published as shapes
    from llmkg_lab.runtime.abilities import abilities
    from llmkg_lab.sources import availability

    outputs = out or paths.outputs()
    rows = []
    for variant in batch.select(family=family, tier=tier, everything=True):
        sources = [
            {"source": str(spec), "kind": spec.kind, "available": available, "reason": reason}
            for spec, available, reason in availability(variant)
        ]
        state = batch.last_state(outputs / variant.family / variant.id)
        facts = ("id", "title", "family", "tier", "task", "license")
        row = {name: getattr(variant, name) for name in facts}
        shape = shapes.known().get(variant.alias_of or variant.id)  # none of a user's own variant
        row["parameters"] = shape and shape.parameters()
        row["runtimes"] = [asdict(ability) for ability in abilities(variant.architecture)]
        apart = batch.apart(outputs, variant)
        rows.append(row | {"sources": sources, "last_run": state, "apart": apart})
    if as_json:
        console.print_json(rows)
    else:
        console.out.print(console.roster_table(rows))


@app.command(
    epilog=examples(
        "run all_minilm_l6_v2 smollm2_135m_instruct",
        "run --family minilm --scheme int8,balanced",
        "run --all --set quick=true --jobs 2 --out /tmp/smoke",
        "run --all --source synthetic --size reduced",
    )
)
def run(
    variants: Variants = None,
    family: Family = None,
    tier: Tier = None,
    everything: Annotated[bool, typer.Option("--all", help="All variants.")] = False,
    source: Annotated[
        str,
        typer.Option(help="hub, package, synthetic, or a path; by default the first available."),
    ] = "",
    size: Annotated[
        str | None,
        typer.Option(help="Of synthetic weights: full or reduced.", show_default="full"),
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help="Added to what the report holds; by default the variant's own. "
            "Several with commas, or repeated."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A notebook parameter. Repeatable."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Try what was made in an installed Chromium, too.")
    ] = False,
    out: Outputs = None,
    force: Annotated[bool, typer.Option("--force", help="Run what is done, too.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Notebooks at a time, which share the cores. More than one disturbs the timings.",
            show_default="1; of reduced synthetic weights, whose timings mean little, one a core",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert, validate and measure variants: one notebook each, kept as its report.

    Makes `report.ipynb`, `report.html`, `result.json` and `artifacts/` in OUT/FAMILY/VARIANT, and
    `OUT/registry.json`. A report takes the place of an earlier one when it is whole; --scheme adds
    to what it held. Smoke runs and runs from a source of your choice lie apart, in OUT/quick and
    OUT/SOURCE. What is done already is not run again unless its notebook, parameters or the
    package's code changed; after Ctrl-C the same command goes on.

    Exits with 1 if a variant failed.
    """
    from llmkg_lab.base import machine, paths
    from llmkg_lab.batch import jobs as batch
    from llmkg_lab.cli import watch

    outputs = (out or paths.outputs()).resolve()
    chosen = batch.select(variants or (), family, tier, everything)
    source = f"{source}:{size}" if size else source
    parallel = jobs or (machine.physical_cores() if source == "synthetic:reduced" else 1)
    settings = batch.parse_settings([*(setting or ()), *(["browser=true"] if browser else [])])
    planned = batch.plan(chosen, outputs, scheme or (), source, settings)
    try:
        with watch.watching(planned) as follow:
            outcomes = batch.run(planned, outputs, force=force, parallel=parallel, follow=follow)
    except KeyboardInterrupt:
        console.err.print("interrupted; the same command goes on where it stopped")
        raise
    if as_json:
        console.print_json([batch.as_json(outcome) for outcome in outcomes])
    else:
        watch.print_summary(outcomes)
    raise typer.Exit(0 if all(outcome.verdict.usable for outcome in outcomes) else 1)
