"""The command line. What a command needs is imported when it runs, so that --help is fast."""

import os
import re
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkg_lab import console
from llmkg_lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmkg_lab.artifact import Artifact
    from llmkg_lab.checkpoint import Checkpoint
    from llmkg_lab.quantize import Scheme


def _examples(*commands: str) -> str:
    """The foot of a command's help, in Markdown."""
    return "\n\n".join(["Examples:", *(f"`llmkg-lab {command}`" for command in commands)])


app = typer.Typer(
    help=(
        "Small open language models, converted to quantized ONNX, validated and measured.\n\n"
        "Models of the roster: **list**, then **run**. "
        "A checkpoint of your own: **convert**. "
        "What came out: **verify**, **generate**, **embed**, **rank**. "
        "This machine: **device**."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
CheckpointName = Annotated[
    str,
    typer.Argument(
        metavar="PATH_OR_HUB_ID",
        help="A folder as on the Hub (safetensors or PyTorch), one .gguf file, or OWNER/NAME.",
    ),
]
ArtifactFolder = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A folder with a manifest.json.")
]
Runtime = Annotated[
    str | None,
    typer.Option(help="onnxruntime or candle.", show_default="what the folder is made for"),
]
Family = Annotated[str | None, typer.Option(help="Only this family.")]
Tier = Annotated[int | None, typer.Option(help="Only this tier.")]
Outputs = Annotated[Path | None, typer.Option(help="The outputs folder.", show_default="outputs")]


@app.command(
    epilog=_examples(
        "convert ./SmolLM2-135M --scheme int4 --scheme int8 --out smollm2",
        "convert sentence-transformers/all-MiniLM-L6-v2 --out minilm",
        "convert ./SmolLM2-135M --scheme budget:100MB --out smollm2",
    )
)
def convert(
    checkpoint: CheckpointName,
    out: Annotated[Path, typer.Option(help="One artifact a scheme is made in OUT/SCHEME.")],
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
    from llmkg_lab.convert import convert as make
    from llmkg_lab.quantize import Scheme

    schemes = [Scheme.parse(name) for name in dict.fromkeys(scheme or ["int4"])]
    opened, origin = _open_source(checkpoint)
    conversions = []
    for wanted in schemes:
        conversion = _timed(make, opened, wanted, out / wanted.name, origin, force)
        if not as_json:
            console.print_conversion(conversion)
        conversions.append(conversion)
    if as_json:
        console.print_json(conversions)


@app.command(
    epilog=_examples(
        "export ./SmolLM2-135M --type Q4_0 --type F16 --out smollm2",
        "export sentence-transformers/all-MiniLM-L6-v2 --type F16 --out minilm",
    )
)
def export(
    checkpoint: CheckpointName,
    out: Annotated[Path, typer.Option(help="One artifact a type is made in OUT/gguf-TYPE.")],
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

    Quantized types store 32 weights a block: Q8_0 in 8.5 bits a weight, Q4_0 in 4.5. Vectors stay
    F32; a matrix whose rows are no multiple of 32 long stays F16, as the table of types shows.
    """
    from llmkg_lab.export import gguf

    kinds = [gguf.check_type(name.upper()) for name in dict.fromkeys(kind or ["Q4_0"])]
    opened, origin = _open_source(checkpoint)
    exports = []
    for name in kinds:
        made = _timed(gguf.export, opened, name, out / f"gguf-{name}", origin, force)
        if not as_json:
            console.print_conversion(made)
        exports.append(made)
    if as_json:
        console.print_json(exports)


@app.command(epilog=_examples("verify smollm2/int4"))
def verify(artifact: ArtifactFolder, as_json: Json = False) -> None:
    """Check every file's SHA-256 against the manifest, and that the model loads.

    A graph is loaded by ONNX Runtime; of a GGUF file the header is read.

    Exits with 1 if something is wrong.
    """
    from llmkg_lab import artifact as artifacts

    problems = artifacts.verify(artifact)
    if not problems:  # a damaged file need not be loaded
        try:
            _load(artifacts.Artifact.open(artifact).model_path)
        except LabError as error:
            problems.append(error.message)
    if as_json:
        console.print_json({"artifact": str(artifact), "whole": not problems, "problems": problems})
    elif problems:
        console.out.print(*problems, sep="\n", markup=False, soft_wrap=True)
    else:
        console.out.print(f"{artifact} is whole, and its model loads", markup=False)
    raise typer.Exit(1 if problems else 0)


@app.command(
    epilog=_examples(
        "generate smollm2/int4 'Once upon a time' --seed 1",
        "generate smollm2/int4 'Why is the sky blue?' --chat --temperature 0",
        "generate openelm_3b/int4-b64 'Once upon a time' --memory 500MB",
        "generate smollm2/gguf-Q8_0 'Once upon a time' --runtime candle",
    )
)
def generate(
    artifact: ArtifactFolder,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask the prompt as a user, by the chat template.")
    ] = False,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest; 0: from all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach p.")] = 0.95,
    repetition_penalty: Annotated[float, typer.Option(help="1: none.")] = 1.1,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text.")] = None,
    max_tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 1024,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends the generation. Repeatable.")
    ] = None,
    runtime: Runtime = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Hold this process to so much, as in 500MB; layers then take turns."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Continue a text, or answer a question with --chat; the text appears as it grows."""
    if memory:  # NumPy's OpenBLAS takes 40 MB a thread when it is loaded, which the limit counts
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from llmkg_lab.runtime.generate import GenerationConfig
    from llmkg_lab.runtime.selection import open_backend

    config = GenerationConfig(
        temperature, top_k, top_p, repetition_penalty, max_tokens, seed,
        (*GenerationConfig.stop_tokens, *(stop or ())),
    )  # fmt: skip
    limit = _limit_memory(memory) if memory else None
    backend = open_backend(artifact, runtime, memory=limit)
    asked = [{"role": "user", "content": prompt}] if chat else prompt
    pieces = backend.stream_text(asked, config)
    if as_json:
        console.print_json({"prompt": prompt, "text": "".join(pieces)})
        return
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:  # Ctrl-C too leaves the cursor on a line of its own
        print()


@app.command(epilog=_examples("embed minilm/int8 'A cat sleeps' 'A kitten naps' --json"))
def embed(
    artifact: ArtifactFolder,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...")],
    runtime: Runtime = None,
    as_json: Json = False,
) -> None:
    """Embed texts. --json prints the vectors; without it, how similar the texts are."""
    from llmkg_lab.runtime.selection import open_backend

    embeddings = open_backend(artifact, runtime).embed(texts)
    if as_json:
        rows = zip(texts, embeddings.tolist(), strict=True)
        console.print_json([{"text": text, "embedding": vector} for text, vector in rows])
        return
    unit = embeddings / (embeddings**2).sum(axis=1, keepdims=True) ** 0.5
    cosines = unit @ unit.T  # (texts, texts)
    rows = [(text, *(f"{x:.3f}" for x in row)) for text, row in zip(texts, cosines, strict=True)]
    numbers = [str(i + 1) for i in range(len(texts))]
    console.out.print(f"cosine similarities ({embeddings.shape[1]} dimensions):")
    console.out.print(console.table(("text", *numbers), rows))


@app.command(
    epilog=_examples("rank ms_marco/int8 'how tall is it' 'The tower is 300 m tall.' 'It rains.'")
)
def rank(
    artifact: ArtifactFolder,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    passages: Annotated[list[str], typer.Argument(metavar="PASSAGE...")],
    as_json: Json = False,
) -> None:
    """Order passages by how well they answer a query, by a cross-encoder's scores (logits)."""
    from llmkg_lab.artifact import Artifact
    from llmkg_lab.runtime.ranker import Ranker

    scores = Ranker(Artifact.open(artifact)).score([(query, passage) for passage in passages])
    order = (-scores).argsort(kind="stable").tolist()
    if as_json:
        fields = ("passage", "index", "score")
        rows = [(passages[i], i, float(scores[i])) for i in order]
        console.print_json([dict(zip(fields, row, strict=True)) for row in rows])
        return
    rows = [(str(n), f"{scores[i]:.3f}", passages[i]) for n, i in enumerate(order, 1)]
    console.out.print(console.table(("rank", "score", "passage"), rows))


@app.command(epilog=_examples("device", "device --json"))
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


@app.command("list", epilog=_examples("list", "list --family minilm --json"))
def list_variants(
    family: Family = None,
    tier: Tier = None,
    out: Outputs = None,
    as_json: Json = False,
) -> None:
    """List the roster: tier, parameters, licence, sources and the state of the last run.

    A source is marked ✓ where it can serve without a network: a package or folder that is
    here, a repository in the Hub's cache.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else each variant would wait for the Hub
    from llmkg_lab import batch, paths
    from llmkg_lab.sources import availability, shapes

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
        rows.append(row | {"sources": sources, "last_run": state})
    if as_json:
        console.print_json(rows)
    else:
        console.out.print(console.roster_table(rows))


@app.command(
    epilog=_examples(
        "run all_minilm_l6_v2 smollm2_135m_instruct",
        "run --family minilm --scheme int8 --scheme int4-b64",
        "run --all --set quick=true --jobs 2 --out /tmp/smoke",
        "run --all --source synthetic --size reduced",
    )
)
def run(
    variants: Annotated[
        list[str] | None, typer.Argument(metavar="[VARIANT]...", help="Ids from `list`.")
    ] = None,
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
        typer.Option(help="Instead of the variant's own schemes. Repeatable."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A notebook parameter. Repeatable."),
    ] = None,
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
    `OUT/registry.json`. What is done already is not run again unless its notebook, parameters or
    the package's code changed; after Ctrl-C the same command goes on.

    Exits with 1 if a variant failed.
    """
    from llmkg_lab import batch, cores, paths, watch

    outputs = (out or paths.outputs()).resolve()
    chosen = batch.select(variants or (), family, tier, everything)
    source = f"{source}:{size}" if size else source
    parallel = jobs or (cores.physical() if source == "synthetic:reduced" else 1)
    planned = batch.plan(chosen, outputs, scheme or (), source, batch.parse_settings(setting or ()))
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
    raise typer.Exit(1 if any(outcome.verdict == "fail" for outcome in outcomes) else 0)


def _limit_memory(text: str) -> int:
    """Hold this process to ``text``, such as 500MB; bytes. Raises LabError on what is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise LabError(f"--memory {text!r} is no size", "give it as in 500MB or 2GB")
    nbytes = int(float(match[1]) * 1000 ** " KMG".index(match[2].upper() or " "))
    if sys.platform.startswith("linux"):
        from llmkg_lab.runtime.residency import limit_data

        limit_data(nbytes)
    return nbytes


def _load(model: Path) -> None:
    """Raise LabError where a graph or a GGUF file cannot be opened."""
    if model.suffix == ".gguf":
        from llmkg_lab.checkpoint import open_checkpoint

        open_checkpoint(model)
    else:
        from llmkg_lab.runtime.session import open_session

        open_session(model)


def _open_source(name: str) -> tuple["Checkpoint", dict]:
    """A checkpoint by path or by Hub id, and its origin for the manifest."""
    from llmkg_lab.checkpoint import open_checkpoint

    if Path(name).exists():  # the Hub's client need not be loaded
        detail = f"local {Path(name).resolve().name}"
        origin = {"kind": "local", "detail": detail, "revision": None, "synthetic": False}
        return open_checkpoint(name), origin
    from llmkg_lab.sources import fetch_repo

    with console.transfer_bar("download") as progress:
        fetched = fetch_repo(name, progress=progress)
    origin = asdict(fetched)
    return open_checkpoint(origin.pop("path"), origin.pop("tokenizer")), origin


def _timed(
    make: "Callable[..., Artifact]",
    checkpoint: "Checkpoint",
    wanted: "Scheme | str",
    out: Path,
    origin: dict,
    force: bool,
) -> dict:
    """Make one artifact under a progress bar; return what is to tell about it."""
    start = time.perf_counter()
    with console.transfer_bar(out.name) as progress:
        artifact = make(checkpoint, wanted, out, source=origin, progress=progress, force=force)
    seconds = time.perf_counter() - start
    read = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    return {
        "artifact": str(out),
        "scheme": artifact.manifest["scheme"]["name"],
        "bytes": artifact.nbytes,
        "bits_per_weight": artifact.bits_per_weight,
        "groups": artifact.manifest["groups"],
        "seconds": seconds,
        "megabytes_per_second": read / 1e6 / seconds,
    }


def main() -> None:
    """Run the command line; an error that the user can act on ends it with exit code 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as on Ctrl-C
    try:
        app(prog_name="llmkg-lab")
    except LabError as error:
        console.print_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
