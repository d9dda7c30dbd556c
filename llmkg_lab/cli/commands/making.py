"""Commands that make something of a checkpoint: convert, export."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import to_builtins

from llmkg_lab.cli import console
from llmkg_lab.cli.application import CheckpointName, Json, app, examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmkg_lab.artifact import Artifact
    from llmkg_lab.checkpoint import Checkpoint
    from llmkg_lab.scheme import Scheme


@app.command(
    epilog=examples(
        "convert ./SmolLM2-135M --scheme int4 --scheme int8 --out smollm2",
        "convert sentence-transformers/all-MiniLM-L6-v2 --out minilm",
        "convert ./SmolLM2-135M --scheme budget:100MB --out smollm2",
    )
)
def convert(
    checkpoint: CheckpointName,
    out: Annotated[Path, typer.Option(help="One artifact per scheme is made in OUT/SCHEME.")],
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, fp16, int8 or int4; block size and more as in int4-b64-sym; "
            "budget:100MB or budget:5.2bpw for the best mix of that size. Repeatable.",
            show_default="int4",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite artifacts.")] = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of a supported architecture; no YAML is needed.

    Memory stays within the largest chunk of a tensor, not the model. An artifact is written
    whole or not at all.
    """
    from llmkg_lab.conversion.to_onnx import convert as make
    from llmkg_lab.scheme import Scheme

    schemes = [Scheme.parse(name) for name in dict.fromkeys(scheme or ["int4"])]
    opened, origin = _open_source(checkpoint)
    console.print_warnings(opened.warnings)
    conversions = []
    for wanted in schemes:
        conversion = _timed(make, opened, wanted, out / wanted.name, origin, force)
        if not as_json:
            console.print_conversion(conversion)
        conversions.append(conversion)
    if as_json:
        console.print_json(conversions)


@app.command(
    epilog=examples(
        "export ./SmolLM2-135M --type Q4_0 --type F16 --out smollm2",
        "export sentence-transformers/all-MiniLM-L6-v2 --type F16 --out minilm",
    )
)
def export(
    checkpoint: CheckpointName,
    out: Annotated[Path, typer.Option(help="One artifact per type is made in OUT/gguf-TYPE.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            help="Of the matrices: F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0. Repeatable.",
            show_default="Q4_0",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite artifacts.")] = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as GGUF, the format of llama.cpp and Candle.

    Quantized types store 32 weights per block: Q8_0 in 8.5 bits per weight, Q4_0 in 4.5. Vectors
    stay F32; a matrix whose rows are not a multiple of 32 long stays F16, as the table of types
    shows.
    """
    from llmkg_lab.conversion import to_gguf as gguf

    kinds = [gguf.check_type(name.upper()) for name in dict.fromkeys(kind or ["Q4_0"])]
    opened, origin = _open_source(checkpoint)
    console.print_warnings(opened.warnings)
    exports = []
    for name in kinds:
        made = _timed(gguf.export, opened, name, out / f"gguf-{name}", origin, force)
        if not as_json:
            console.print_conversion(made)
        exports.append(made)
    if as_json:
        console.print_json(exports)


def _open_source(name: str) -> tuple["Checkpoint", dict]:
    """A checkpoint by path or by Hub id, and its origin for the manifest."""
    from llmkg_lab.base.bar import Bar
    from llmkg_lab.sources import fetch_repo

    with Bar() as progress:
        fetched = fetch_repo(name, progress=progress)
    return fetched.open(), fetched.origin


def _timed(
    make: "Callable[..., Artifact]",
    checkpoint: "Checkpoint",
    wanted: "Scheme | str",
    out: Path,
    origin: dict,
    force: bool,
) -> dict:
    """Make one artifact under a progress bar; return what is to tell about it."""
    from llmkg_lab.base.bar import Bar

    start = time.perf_counter()
    with Bar() as progress:
        artifact = make(checkpoint, wanted, out, source=origin, progress=progress, force=force)
    seconds = time.perf_counter() - start
    writing = progress.took["writing"]
    return {
        "artifact": str(out),
        "scheme": artifact.manifest.scheme.name,
        "bytes": artifact.nbytes,
        "bits_per_weight": artifact.bits_per_weight,
        "groups": to_builtins(artifact.manifest.groups),
        "seconds": seconds,
        "steps": {name: took.seconds for name, took in progress.took.items()},
        "megabytes_per_second": writing.units / 1e6 / writing.seconds,
    }
