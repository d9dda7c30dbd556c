"""Commands around the server: serve, top."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import sizes
from llmkg_lab.cli.application import Outputs, app, examples

TOKENS = "LLMKG_LAB_TOKENS"


@app.command(
    epilog=examples(
        "serve",
        "serve smollm2/int4 minilm/int8 --port 9000",
        "serve chat=smollm2/int4 --host 0.0.0.0 --tokens tokens.txt --workers 2",
    )
)
def serve(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[NAME=]ARTIFACT]...",
            help="Folders with a manifest.json; by default, all that the registry lists.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help=f"A file of bearer tokens, one per line; or in {TOKENS}, with commas between. "
            "Needed where other machines reach the port."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name to answer to on loopback. Repeatable.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may ask. Repeatable.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Sequences decoded side by side.")] = 8,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a sequence at most.")] = 4096,
    queue: Annotated[int, typer.Option(min=1, help="Sequences that may wait for a slot.")] = 128,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each model.", show_default="the cores")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="For loaded models, as in 2GB.", show_default="half of the machine's"),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds of a request at most.")] = 600,
    grace: Annotated[float, typer.Option(min=1, help="Seconds for requests at SIGTERM.")] = 30,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    out: Outputs = None,
) -> None:
    """Serve models with OpenAI's interface: chat, completions, embeddings; and rerank.

    Prometheus reads /metrics, probes /health and /ready, people /docs. Logs are JSON on stderr.
    Ctrl-C and SIGTERM let what runs end first.
    """
    from llmkg_lab.base import paths
    from llmkg_lab.serve import offered
    from llmkg_lab.serve.run import serve as run
    from llmkg_lab.serve.settings import Settings

    if artifacts:
        models, aliases = offered.of_folders(artifacts)
    else:
        models, aliases = offered.of_registry(out or paths.outputs())
    if log_level not in ("debug", "info", "warning", "error"):
        raise LabError(f"--log-level {log_level!r} is unknown", "debug, info, warning or error")
    settings = Settings(
        models=models,
        aliases=aliases,
        host=host,
        port=port,
        tokens=_tokens(tokens),
        hosts=tuple(allow_host or ()),
        origins=tuple(origin or ()),
        slots=slots,
        context=context,
        threads=threads,
        memory=sizes.nbytes("--memory", memory) if memory else None,
        queue=queue,
        timeout=timeout,
        grace=grace,
    )
    run(settings, workers, log_level)


def _tokens(file: Path | None) -> tuple[str, ...]:
    """The tokens that let clients in. Raises LabError where the file cannot be read."""
    if file is None:
        said = os.environ.get(TOKENS, "").split(",")
    else:
        try:
            said = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LabError(f"{file} cannot be read: {error}") from None
    found = tuple(token for line in said if (token := line.strip()) and not token.startswith("#"))
    if file is not None and not found:
        raise LabError(f"{file} holds no token", "write one on each line")
    return found
