"""The command line. What a command needs is imported when it runs, so that --help is fast."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkg_lab import console
from llmkg_lab.errors import LabError

if TYPE_CHECKING:
    from llmkg_lab.checkpoint import Checkpoint


def _examples(*commands: str) -> str:
    """The foot of a command's help, in Markdown."""
    return "\n\n".join(["Examples:", *(f"`llmkg-lab {command}`" for command in commands)])


app = typer.Typer(
    help=(
        "Small open language models, converted to quantized ONNX, validated and measured.\n\n"
        "Models of the roster: **list**, then **run**. "
        "A checkpoint of your own: **convert**. "
        "What came out: **verify**, **generate**, **embed**."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
ArtifactFolder = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A folder with a manifest.json.")
]


@app.command(
    epilog=_examples(
        "convert ./SmolLM2-135M --scheme int4 --scheme int8 --out smollm2",
        "convert sentence-transformers/all-MiniLM-L6-v2 --out minilm",
    )
)
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="PATH_OR_HUB_ID",
            help="A folder as on the Hub (safetensors or PyTorch), one .gguf file, or OWNER/NAME.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="One artifact a scheme is made in OUT/SCHEME.")],
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, fp16, int8 or int4; block size and more as in int4-b64-sym. Repeatable.",
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
    from llmkg_lab.convert import convert as convert_checkpoint
    from llmkg_lab.quantize import Scheme

    schemes = [Scheme.parse(name) for name in dict.fromkeys(scheme or ["int4"])]
    opened, source = _open_source(checkpoint)
    nbytes = sum(tensor.nbytes for tensor in opened.tensors.values())
    summaries = []
    for wanted in schemes:
        start = time.perf_counter()
        with console.conversion_bar(wanted.name) as progress:
            artifact = convert_checkpoint(
                opened, wanted, out / wanted.name, source=source, progress=progress, force=force
            )
        seconds = time.perf_counter() - start
        if not as_json:
            console.print_conversion(artifact, nbytes, seconds)
        summaries.append(
            {
                "artifact": str(artifact.folder),
                "scheme": wanted.name,
                "bytes": artifact.nbytes,
                "bits_per_weight": artifact.bits_per_weight,
                "seconds": seconds,
                "groups": artifact.manifest["groups"],
            }
        )
    if as_json:
        console.print_json(summaries)


@app.command(epilog=_examples("verify smollm2/int4"))
def verify(artifact: ArtifactFolder, as_json: Json = False) -> None:
    """Check every file's SHA-256 against the manifest, and that ONNX Runtime loads the graph.

    Exits with 1 if something is wrong.
    """
    from llmkg_lab import artifact as artifacts
    from llmkg_lab.runtime import InferenceError
    from llmkg_lab.runtime.ort import open_session

    problems = artifacts.verify(artifact)
    if not problems:  # a damaged file need not be loaded
        try:
            open_session(artifacts.Artifact.open(artifact).model_path)
        except InferenceError as error:
            problems.append(error.message)
    if as_json:
        console.print_json({"artifact": str(artifact), "whole": not problems, "problems": problems})
    elif problems:
        console.out.print(*problems, sep="\n", markup=False, soft_wrap=True)
    else:
        console.out.print(f"{artifact} is whole, and ONNX Runtime loads it", markup=False)
    raise typer.Exit(1 if problems else 0)


@app.command(
    epilog=_examples(
        "generate smollm2/int4 'Once upon a time' --seed 1",
        "generate smollm2/int4 'Why is the sky blue?' --chat --temperature 0",
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
    as_json: Json = False,
) -> None:
    """Continue a text, or answer a question with --chat; the text appears as it grows."""
    from llmkg_lab.artifact import Artifact
    from llmkg_lab.runtime.generate import GenerationConfig, generate_text
    from llmkg_lab.runtime.ort import Decoder
    from llmkg_lab.runtime.tokenizer import Tokenizer

    config = GenerationConfig(
        temperature, top_k, top_p, repetition_penalty, max_tokens, seed,
        (*GenerationConfig.stop_tokens, *(stop or ())),
    )  # fmt: skip
    decoder = Decoder(Artifact.open(artifact))
    asked = [{"role": "user", "content": prompt}] if chat else prompt
    pieces = generate_text(decoder, Tokenizer.from_folder(artifact), asked, config)
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
    as_json: Json = False,
) -> None:
    """Embed texts. --json prints the vectors; without it, how similar the texts are."""
    from llmkg_lab.artifact import Artifact
    from llmkg_lab.runtime.ort import Embedder

    embeddings = Embedder(Artifact.open(artifact)).embed(texts)
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


def _open_source(name: str) -> tuple["Checkpoint", dict]:
    """A checkpoint by path or by Hub id, and its origin for the manifest."""
    from llmkg_lab.checkpoint import open_checkpoint

    origin = {"kind": "local", "detail": name, "revision": None, "synthetic": False}
    return open_checkpoint(name), origin


def main() -> None:
    """Run the command line; an error that the user can act on ends it with exit code 2."""
    try:
        app(prog_name="llmkg-lab")
    except LabError as error:
        console.print_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
