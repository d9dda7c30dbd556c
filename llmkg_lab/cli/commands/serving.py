"""Commands around the server: serve, top."""

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import console, sizes
from llmkg_lab.cli.application import Json, Outputs, app, examples

if TYPE_CHECKING:
    from llmkg_lab.serve.watch import ServerLoad

TOKENS = "LLMKG_LAB_TOKENS"


@app.command(
    epilog=examples(
        "serve",
        "serve smollm2/balanced minilm/balanced --port 9000",
        "serve chat=smollm2/balanced --host 0.0.0.0 --tokens tokens.txt --workers 2",
        "serve --knowledge outputs/knowledge",
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
    knowledge: Annotated[
        Path | None,
        typer.Option(help="Serve this folder's knowledge graph to assistants, at /mcp."),
    ] = None,
    embedder: Annotated[
        str,
        typer.Option(
            help="Of the graph: an id of the registry, an artifact's folder, or none.",
            show_default="what the registry recommends",
        ),
    ] = "",
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
    if knowledge and workers > 1:
        raise LabError("--knowledge is served by one process", "leave --workers out")
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
        knowledge=str(knowledge.resolve()) if knowledge else "",
        outputs=str((out or paths.outputs()).resolve()),
        embedder=embedder,
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


@app.command(epilog=examples("top", "top http://127.0.0.1:9000 --once --json"))
def top(
    url: Annotated[
        str, typer.Argument(metavar="[URL]", help="A server's address.")
    ] = "http://127.0.0.1:8000",
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option(help="Print one table and end.")] = False,
    as_json: Json = False,
) -> None:
    """Watch a server: what runs and waits, tokens per second, latencies, memory, errors.

    A server's token is taken from LLMKG_LAB_TOKEN. With --json, one object, once.
    """
    import httpx2

    from llmkg_lab.serve import watch

    token = os.environ.get("LLMKG_LAB_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    client = httpx2.Client(base_url=url.rstrip("/").removesuffix("/v1"), headers=headers)

    def look() -> watch.Look:
        try:
            answer = client.get("/metrics")
        except httpx2.TransportError as error:
            raise LabError(f"{url} cannot be reached: {error}", "is it running?") from error
        if answer.status_code != 200:
            raise LabError(f"{url} answers {answer.status_code}", "set LLMKG_LAB_TOKEN?")
        return watch.look(answer.text)

    def loads() -> Iterator[watch.ServerLoad]:
        before, at = look(), time.monotonic()
        while True:
            time.sleep(interval)
            after, now = look(), time.monotonic()
            yield watch.load(before, after, now - at)
            before, at = after, now

    with client:
        if once or as_json:
            load = next(loads())
            if as_json:
                console.print_json(asdict(load))
            else:
                console.out.print(_load_table(load))
            return
        with Live(console=console.out, auto_refresh=False) as live:
            for load in loads():
                live.update(_load_table(load), refresh=True)


def _load_table(load: "ServerLoad") -> Table:
    rows = [
        (
            model.name,
            str(model.running),
            str(model.waiting),
            f"{model.prompt_rate:.1f}",
            f"{model.token_rate:.1f}",
            f"{model.text_rate:.1f}",
            f"{_milliseconds(model.first_token)} / {_milliseconds(model.first_token_95)}",
            _milliseconds(model.between),
            f"{model.kv_share:.0%}",
            f"{model.nbytes / 1e6:,.0f}" if model.nbytes else "not loaded",
            "" if model.cache_hits is None else f"{model.cache_hits:.0%}",
        )
        for model in load.models
    ]
    columns = ("model", "runs", "waits", "prompt tokens/s", "tokens/s", "texts/s",
               "first token ms, 50 / 95 %", "token ms", "KV", "MB", "cache hits")  # fmt: skip
    table = console.table(columns, rows)
    errors = ", ".join(f"{count:.0f} × {status}" for status, count in load.errors.items())
    table.caption = (
        f"{load.request_rate:.1f} requests/s, {load.in_flight} at hand · "
        f"{load.resident / 1e6:,.0f} MB resident, {load.files} files open · "
        f"errors: {errors or 'none'}"
    )
    table.caption_justify = "left"
    return table


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.0f}"
