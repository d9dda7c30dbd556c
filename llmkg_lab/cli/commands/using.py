"""Commands that use an artifact: verify, generate, embed, rank."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import console, sizes
from llmkg_lab.cli.application import ArtifactFolder, Json, Runtime, app, examples

if TYPE_CHECKING:
    from llmkg_lab.runtime.selection import FallbackBackend


@app.command(epilog=examples("verify smollm2/balanced"))
def verify(artifact: ArtifactFolder, as_json: Json = False) -> None:
    """Check every file's SHA-256 against the manifest, and that the model loads.

    Files that programs would read and that the manifest does not list are named, too.
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
    epilog=examples(
        "generate smollm2/balanced 'Once upon a time' --seed 1",
        "generate smollm2/balanced 'Why is the sky blue?' --temperature 0",
        "generate smollm2/balanced 'The capital of France is' --raw",
        "generate openelm_3b/int4-b64 'Once upon a time' --memory 500MB",
        "generate smollm2/gguf-Q8_0 'Once upon a time' --runtime candle",
    )
)
def generate(
    artifact: ArtifactFolder,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw",
            help="Ask the prompt as a user, by the chat template; or continue it as it stands.",
            show_default="--chat, where the model has a template",
        ),
    ] = None,
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
    """Ask a model, or have one that was not taught to answer continue a text.

    The text appears on stdout as it grows; how fast it was stands on stderr at the end.
    """
    if memory:  # NumPy's OpenBLAS takes 40 MB per thread when it is loaded, which the limit counts
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from llmkg_lab.runtime.text.generate import GenerationConfig

    config = GenerationConfig(
        temperature, top_k, top_p, repetition_penalty, max_tokens, seed,
        tuple(stop or ()),
    )  # fmt: skip
    limit = _limit_memory(memory) if memory else None
    backend = _opened(artifact, runtime, limit)
    if chat or (chat is None and backend.tokenizer.chats):
        pieces = backend.stream_text([{"role": "user", "content": prompt}], config)
    else:
        pieces = backend.stream_text(prompt, config)
    if as_json:
        text = "".join(pieces)
        console.print_json({"prompt": prompt, "text": text, **asdict(pieces.speed)})
        return
    shown = False
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            shown = True
    finally:  # Ctrl-C too leaves the cursor on a line of its own
        print()
    console.print_speed(pieces.speed, shown)


@app.command(epilog=examples("embed minilm/balanced 'A cat sleeps' 'A kitten naps' --json"))
def embed(
    artifact: ArtifactFolder,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...")],
    runtime: Runtime = None,
    as_json: Json = False,
) -> None:
    """Embed texts. --json prints the vectors; without it, how similar the texts are."""
    embeddings = _opened(artifact, runtime).embed(texts)
    if as_json:
        vectors = zip(texts, embeddings.tolist(), strict=True)
        console.print_json([{"text": text, "embedding": vector} for text, vector in vectors])
        return
    lengths = (embeddings**2).sum(axis=1, keepdims=True) ** 0.5
    unit = embeddings / lengths.clip(min=1e-9)  # a text of no tokens is the zero vector
    cosines = unit @ unit.T  # (texts, texts)
    rows = [(text, *(f"{x:.3f}" for x in row)) for text, row in zip(texts, cosines, strict=True)]
    numbers = [str(i + 1) for i in range(len(texts))]
    console.out.print(f"cosine similarities ({embeddings.shape[1]} dimensions):")
    console.out.print(console.table(("text", *numbers), rows))


@app.command(
    epilog=examples("rank ms_marco/best 'how tall is it' 'The tower is 300 m tall.' 'It rains.'")
)
def rank(
    artifact: ArtifactFolder,
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    passages: Annotated[list[str], typer.Argument(metavar="PASSAGE...")],
    runtime: Runtime = None,
    as_json: Json = False,
) -> None:
    """Order passages by how well they answer a query, by a cross-encoder's scores (logits)."""
    backend = _opened(artifact, runtime)
    scores = backend.score([(query, passage) for passage in passages])
    order = (-scores).argsort(kind="stable").tolist()
    if as_json:
        console.print_json(
            [{"passage": passages[i], "index": i, "score": float(scores[i])} for i in order]
        )
        return
    rows = [(str(n), f"{scores[i]:.3f}", passages[i]) for n, i in enumerate(order, 1)]
    console.out.print(console.table(("rank", "score", "passage"), rows))


def _opened(folder: Path, runtime: str | None, memory: int | None = None) -> "FallbackBackend":
    """The model in a folder; where the folder holds several artifacts of it, say which one runs."""
    from llmkg_lab.runtime.selection import open_backend

    backend = open_backend(folder, runtime, memory=memory)
    if (name := backend.metadata().name) != folder.resolve().name:
        console.print_note(f"{name} runs, the smallest that {folder} holds")
    return backend


def _limit_memory(text: str) -> int:
    """Hold this process to ``text``, such as 500MB; bytes. Raises LabError on anything else."""
    nbytes = sizes.nbytes("--memory", text)
    if sys.platform.startswith("linux"):
        from llmkg_lab.runtime.ort.residency import limit_data

        limit_data(nbytes)
    return nbytes


def _load(model: Path) -> None:
    """Raise LabError where a graph or a GGUF file cannot be opened."""
    if model.suffix == ".gguf":
        from llmkg_lab.checkpoint import open_checkpoint

        open_checkpoint(model)
    else:
        from llmkg_lab.runtime.ort.session import open_session

        open_session(model)
