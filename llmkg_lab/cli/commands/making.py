"""Commands that make something of a checkpoint: convert, export."""

import shlex
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import to_builtins

from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import console
from llmkg_lab.cli.application import CheckpointName, Json, app, examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmkg_lab.artifact import Artifact
    from llmkg_lab.checkpoint import Checkpoint
    from llmkg_lab.scheme import Scheme


@app.command(
    epilog=examples(
        "convert ./SmolLM2-135M",
        "convert ./SmolLM2-135M --scheme small,int8 --out smollm2",
        "convert sentence-transformers/all-MiniLM-L6-v2 --scheme best --out minilm",
        "convert ./SmolLM2-135M --scheme 100MB --out smollm2",
        "convert ./SmolLM2-135M --effort high --calibration programs.txt",
    )
)
def convert(
    checkpoint: CheckpointName,
    out: Annotated[
        Path | None,
        typer.Option(
            help="One artifact per scheme is made in OUT/SCHEME.", show_default="converted/MODEL"
        ),
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help="balanced, best, small, fast or web; int8, int4, fp16 or fp32; a size such as "
            "100MB or 5.2bpw; or a recipe such as int4-rtn. Several with commas, or repeated.",
            show_default="balanced",
        ),
    ] = None,
    effort: Annotated[
        str,
        typer.Option(
            help="How much text a calibrated scheme is solved on: quick, normal or high. A "
            "language model writes half of it itself, or all where no corpus is at hand."
        ),
    ] = "normal",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text of the kind that the model is for, such as code, in the place of the "
            "corpus. Its first half is read; the second is left to measure on.",
            show_default="WikiText-2, or news",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite artifacts.")] = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of a supported architecture; no YAML is needed.

    Which scheme to take:

    - **balanced**, the default: nothing speaks against it
    - **best**: every answer counts
    - **small**: bytes count more than answers
    - **fast**: waiting counts most
    - **web**: it is downloaded into a page
    - **100MB**, **5.2bpw**: the best mix of a language model's widths in that size
    - **int8**, **int4**: the best that is known at that width; **int4-rtn**: seconds, not minutes

    `llmkg-lab schemes` has their sizes, losses and times. What a preset came to stands in the
    artifact's manifest. Memory stays within the largest chunk of a tensor, not the model. An
    artifact is written whole or not at all.
    """
    from llmkg_lab.conversion.to_onnx import convert as make
    from llmkg_lab.data import texts
    from llmkg_lab.presets import DEFAULT, kind_of, resolve
    from llmkg_lab.quantize.prepare import expected_seconds, reads_text
    from llmkg_lab.quantize.solve.effort import check_effort
    from llmkg_lab.quantize.solve.text import at_hand
    from llmkg_lab.scheme import Scheme

    schemes = Scheme.parse_all(scheme or [DEFAULT])
    check_effort(effort)
    text = texts.from_file(calibration) if calibration else None
    opened, origin = _open_source(checkpoint)
    out = out or Path("converted") / _plain_name(checkpoint)
    console.print_warnings(opened.warnings)
    conversions = []
    for wanted in schemes:
        resolved = resolve(wanted, kind_of(type(opened.form)))
        if reads_text(opened, resolved):
            text = text or at_hand()
            if not as_json:
                seconds = expected_seconds(opened, resolved, text, effort)
                console.print_beforehand(wanted.name, effort, seconds)
        making = partial(make, effort=effort, calibration=text)
        conversion = _timed(making, opened, wanted, out / wanted.name, origin, force)
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
    bare: Annotated[
        bool,
        typer.Option(
            "--no-tokenizer",
            help="Leave the tokenizer out of the file; Candle reads the one beside it.",
        ),
    ] = False,
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
        make = partial(gguf.export, tokenizer=not bare)
        made = _timed(make, opened, name, out / f"gguf-{name}", origin, force)
        if not as_json:
            console.print_conversion(made)
        exports.append(made)
    if as_json:
        console.print_json(exports)


def _plain_name(checkpoint: str) -> str:
    """The last part of a path or of a Hub id, as the name of a folder."""
    path = Path(checkpoint)
    name = path.resolve().name if path.exists() else path.name
    return name.removesuffix(".gguf") or "model"


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
        "scheme": artifact.manifest.scheme.asked,
        "recipe": artifact.manifest.scheme.recipe,
        "meaning": _meaning(artifact),
        "use": _use(artifact),
        "bytes": artifact.nbytes,
        "bits_per_weight": artifact.bits_per_weight,
        "groups": to_builtins(artifact.manifest.groups),
        "seconds": seconds,
        "steps": {name: took.seconds for name, took in progress.took.items()},
        "megabytes_per_second": writing.units / 1e6 / writing.seconds,
    }


def _meaning(artifact: "Artifact") -> str:
    """What an artifact's scheme means, in words; of an export to GGUF, its type."""
    from llmkg_lab.presets.words import explained

    stored = artifact.manifest.scheme
    return explained(stored.meaning) if stored.meaning else f"type {stored.type}"


def _use(artifact: "Artifact") -> str:
    """The command to try next."""
    words = {
        "text-generation": "generate {} 'Once upon a time'",
        "text-ranking": "rank {} 'how tall is it' 'The tower is 300 m tall.' 'It rains.'",
    }
    line = words.get(artifact.task, "embed {} 'A cat sleeps' 'A kitten naps'")
    if artifact.task == "text-generation" and _answers(artifact.folder):
        line = (
            "generate {} 'Why is the sky blue?'"  # half a sentence would be answered with nonsense
        )
    return line.format(shlex.quote(str(artifact.folder)))


def _answers(folder: Path) -> bool:
    """Whether a model was taught to answer."""
    from llmkg_lab.runtime.text.tokenizer import Tokenizer

    try:
        return Tokenizer.from_folder(folder).chats
    except LabError:  # of an export, the tokenizer may be in the weights' file
        return False
