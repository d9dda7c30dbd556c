"""The command that describes the machine."""

from dataclasses import asdict

from llmkg_lab import console
from llmkg_lab.cli.application import Json, Outputs, app, examples


@app.command(epilog=examples("device", "device --json"))
def device(out: Outputs = None, as_json: Json = False) -> None:
    """Describe this machine, and recommend a variant, a scheme and a number of threads for it.

    From measured facts in the outputs folder where there are any, and from the profile else.
    """
    from llmkg_lab import paths
    from llmkg_lab.device import profile
    from llmkg_lab.recommendation import recommend

    found = profile()
    advice = recommend(found, out or paths.outputs())
    if as_json:
        advised = [asdict(recommendation) for recommendation in advice]
        console.print_json({"profile": asdict(found), "recommendations": advised})
        return
    rows = [(name.replace("_", " "), console.fact(value)) for name, value in asdict(found).items()]
    console.out.print(console.table(("device", ""), rows), "")
    rows = [(entry.what, entry.value, entry.reason) for entry in advice]
    console.out.print(console.table(("recommended", "", "because"), rows))
