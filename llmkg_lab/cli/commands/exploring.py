"""The command that opens the explorer."""

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from llmkg_lab.cli.application import app, examples


@app.command(epilog=examples("explore", "explore --port 9000 --no-browser"))
def explore(
    port: Annotated[int, typer.Option(min=1, help="Where the page is served.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open a browser on the page.")] = True,
) -> None:
    """Open the explorer as a page of its own: budgets, sensitivities and texts of one model.

    The page is served to this machine alone, until Ctrl-C. The same panels are in explore.ipynb.
    """
    from llmkg_lab.base import paths
    from llmkg_lab.base.extras import MissingPackageError

    if find_spec("voila") is None:
        raise MissingPackageError("voila", "app")
    notebook = paths.notebooks() / "explore.ipynb"
    command = [sys.executable, "-m", "voila", "--template=offline", f"--port={port}"]
    templates = [str(paths.notebooks()), os.environ.get("JUPYTER_PATH", "")]
    places = {
        "JUPYTER_PATH": os.pathsep.join(filter(None, templates)),
        "LLMKG_LAB_OUTPUTS": str(paths.outputs().resolve()),  # a kernel works beside its notebook
    }
    options = [] if browser else ["--no-browser"]
    os.execve(sys.executable, [*command, *options, str(notebook)], os.environ | places)
