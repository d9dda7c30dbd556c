"""The application that the commands join, and the arguments that several of them take."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer


def examples(*commands: str) -> str:
    """The foot of a command's help, in Markdown."""
    return "\n\n".join(["Examples:", *(f"`llmkg-lab {command}`" for command in commands)])


def variant_ids(begin: str) -> list[str]:
    """Complete an id for the shell: from the names of files, since a keystroke must not wait."""
    return sorted(path.stem for path in _variants() if path.stem.startswith(begin))


def families(begin: str) -> list[str]:
    """Complete the name of a family."""
    return sorted({path.parent.name for path in _variants() if path.parent.name.startswith(begin)})


def _variants() -> Iterable[Path]:
    from llmkg_lab.base import paths

    return paths.params().glob("*/*.yaml")


app = typer.Typer(
    help=(
        "Small open language models, converted to quantized ONNX, validated and measured.\n\n"
        "Models of the roster: **list**, then **run**. "
        "A checkpoint of your own: **convert**; which scheme: **schemes**. "
        "What came out: **verify**, **generate**, **chat**, **embed**, **rank**, **explore**. "
        "For programs: **serve**, and **top** to watch it. "
        "In a browser: **bundle**, **web**. "
        "This machine: **device**, **cache**."
    ),
    no_args_is_help=True,
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
Variants = Annotated[
    list[str] | None,
    typer.Argument(metavar="[VARIANT]...", help="Ids from `list`.", autocompletion=variant_ids),
]
Family = Annotated[str | None, typer.Option(help="Only this family.", autocompletion=families)]
Tier = Annotated[int | None, typer.Option(help="Only this tier.")]
Outputs = Annotated[Path | None, typer.Option(help="The outputs folder.", show_default="outputs")]
