"""Commands on the knowledge graph: mcp, ask, facts."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import console
from llmkg_lab.cli.application import Json, Outputs, app, examples

if TYPE_CHECKING:
    from llmkg_lab.serve.mcp.desk import Desk

FORMATS = {
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".ttl": "turtle",
    ".nt": "n-triples",
    ".nq": "n-quads",
    ".trig": "trig",
    ".rdf": "rdf-xml",
}
Folder = Annotated[
    Path | None,
    typer.Option("--knowledge", help="The graph's folder.", show_default="OUT/knowledge"),
]
Embedder = Annotated[
    str,
    typer.Option(
        help="An id of the registry, an artifact's folder, or none.",
        show_default="what the registry recommends",
    ),
]


@app.command(
    epilog=examples("mcp", "mcp --config", "mcp --knowledge ~/notes --embedder minilm/int8")
)
def mcp(
    knowledge: Folder = None,
    embedder: Embedder = "",
    writer: Annotated[
        str, typer.Option(help="The same for a text model.", show_default="as above")
    ] = "",
    out: Outputs = None,
    config: Annotated[
        bool, typer.Option("--config", help="Print what to paste into an assistant's settings.")
    ] = False,
) -> None:
    """Serve knowledge and models to an assistant, by the Model Context Protocol over stdio.

    Several of these may have one graph open. Standard output holds nothing but the protocol.
    """
    if config:
        console.print_json(_settings(knowledge, embedder, writer, out))
        return
    from llmkg_lab.serve.mcp.server import serve_stdio

    serve_stdio(_desk(knowledge, embedder, writer, out))


def _settings(knowledge: Path | None, embedder: str, writer: str, out: Path | None) -> dict:
    """What assistants read: this command of this Python, wherever they start it."""
    from llmkg_lab.artifact import MANIFEST
    from llmkg_lab.base import paths

    arguments = ["-m", "llmkg_lab.cli", "mcp", "--out", str((out or paths.outputs()).resolve())]
    if knowledge:
        arguments += ["--knowledge", str(knowledge.resolve())]
    for option, model in (("--embedder", embedder), ("--writer", writer)):
        if model:  # an id, none, or an artifact's folder, as Desk tells them apart
            is_folder = model != "none" and (Path(model) / MANIFEST).is_file()
            arguments += [option, str(Path(model).resolve()) if is_folder else model]
    return {"mcpServers": {"llmkg-lab": {"command": sys.executable, "args": arguments}}}


@app.command(epilog=examples("ask 'Who founded Acme?'", "ask 'When was it built?' --json"))
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    knowledge: Folder = None,
    embedder: Embedder = "",
    out: Outputs = None,
    as_json: Json = False,
) -> None:
    """Answer from the knowledge graph, word for word, with what says so.

    Exits with 1 where nothing says so.
    """
    with _desk(knowledge, embedder, "none", out) as desk:
        answer = desk.knowledge.ask_question(question)
    if as_json:
        console.print_json(answer)
    elif answer["known"]:
        console.out.print(answer["answer"], markup=False, style="bold")
        for cited in answer["citations"]:
            said = cited["sentence"] or cited["fact"]
            console.out.print(f"  {said}", markup=False, soft_wrap=True)
    else:
        console.out.print(f"not known: {answer['reason']}", markup=False, soft_wrap=True)
    raise typer.Exit(0 if answer["known"] else 1)


@app.command(epilog=examples("facts load people.csv", "facts save graph.ttl"))
def facts(
    action: Annotated[str, typer.Argument(metavar="load|save", help="Into the graph, or out.")],
    file: Annotated[Path, typer.Argument(help=f"By its ending: {', '.join(FORMATS)}.")],
    knowledge: Folder = None,
    out: Outputs = None,
) -> None:
    """Load facts from a file into the knowledge graph, or save them as one."""
    from llmkg_lab.base import files

    form = FORMATS.get(file.suffix.lower())
    if form is None:
        raise LabError(f"{file} has no known ending", f"give one of {', '.join(FORMATS)}")
    if action not in ("load", "save"):
        raise LabError(f"{action!r} is neither load nor save", "say which")
    with _desk(knowledge, "none", "none", out) as desk:
        if action == "save":
            with files.replacing(file) as temporary, temporary.open("wb") as written:
                written.writelines(desk.knowledge.export_facts(form))
            return
        try:
            content = file.read_bytes()
        except OSError as error:
            raise LabError(f"{file}: {error.strerror}") from None
        done = desk.knowledge.import_facts(content, form)
    console.out.print(f"{done.added} added, {done.corrected} corrected, {done.known} known already")


def _desk(folder: Path | None, embedder: str, writer: str, out: Path | None) -> "Desk":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what is not here is not fetched for a question
    from llmkg_lab.base import paths
    from llmkg_lab.serve.mcp.desk import Desk

    return Desk((out or paths.outputs()).resolve(), folder, embedder, writer)
