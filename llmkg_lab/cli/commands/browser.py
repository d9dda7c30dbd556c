"""Commands for the browser: bundle, web."""

from pathlib import Path
from typing import Annotated

import typer

from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import console
from llmkg_lab.cli.application import ArtifactFolder, Json, app, examples


@app.command(
    epilog=examples(
        "bundle smollm2/int4 --out site/smollm2",
        "bundle smollm2/fp16 --out site/smollm2-fp16 --webgpu --smaller ../smollm2/",
    )
)
def bundle(
    artifact: ArtifactFolder,
    out: Annotated[Path, typer.Option(help="The folder to make; any web server can serve it.")],
    smaller: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A bundle that stands in where memory is short."),
    ] = None,
    webgpu: Annotated[
        bool, typer.Option("--webgpu", help="Add what runs it on a GPU: 27 MB, when it is used.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a bundle.")] = False,
    as_json: Json = False,
) -> None:
    """Make a static folder that browsers load: weights in pieces, engine, loader and page.

    Transformers.js opens the same folder without options. Nothing is fetched from elsewhere.
    What a report measured of the artifact goes into the manifest.
    """
    import json

    from llmkg_lab.artifact import Artifact
    from llmkg_lab.conversion import to_web
    from llmkg_lab.results import measured

    opened = Artifact.open(artifact)
    made = to_web.bundle(
        opened,
        out,
        performance=measured.facts(opened),
        smaller=smaller or [],
        webgpu=webgpu,
        force=force,
    )
    manifest = json.loads((made / to_web.FILE).read_text())
    if as_json:
        console.print_json({"bundle": str(made), "bytes": manifest["bundle_size"]})
        return
    pieces, refused = len(manifest["pieces"]), manifest["engine"].get("refused")
    runs = f"ONNX Runtime runs it ({refused})" if refused else "our engine runs it"
    size = manifest["bundle_size"] / 1e6
    console.out.print(f"{made}: {size:.1f} MB in {pieces} pieces; {runs}", markup=False)


@app.command(epilog=examples("web site/smollm2", "web site/smollm2 site/minilm --port 8080"))
def web(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...")],
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8000,
) -> None:
    """Serve bundles and the page on this machine alone, with the headers that threads need."""
    from llmkg_lab.base import paths
    from llmkg_lab.browser.server import BundleServer
    from llmkg_lab.conversion.to_web import FILE

    for folder in bundles:
        if not (folder / FILE).is_file():
            raise LabError(f"{folder} is not a bundle", "make one with llmkg-lab bundle")
    names = {folder.resolve().name: folder for folder in bundles}
    if len(names) < len(bundles):
        raise LabError("two bundles have the same name", "rename one of the folders")
    root = paths.web() if (paths.web() / "index.html").is_file() else bundles[0]
    try:
        server = BundleServer(root, names, port)
    except OSError as error:
        raise LabError(f"port {port}: {error.strerror}", "choose another with --port") from None
    console.out.print(f"{server.address}  (Ctrl-C ends it)", markup=False)
    with server:
        server.serve_forever()
