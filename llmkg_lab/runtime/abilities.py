"""Which runtime runs which form of model, from which format, and whether it is installed.

The command ``list`` asks it, so that nothing heavy is imported here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

ORT, CANDLE = "onnxruntime", "candle"
RUNTIMES = (ORT, CANDLE)  # in the order in which they are tried
GENERATES, RANKS = "text-generation", "text-ranking"
EMBEDS = ("sentence-embedding", "feature-extraction")
OF_CANDLE: Mapping[str, tuple[str, ...]] = {  # form -> what Candle opens of it
    "llama": ("gguf",),
    "openelm": ("gguf",),
    "bert": ("gguf", "safetensors"),
}


@dataclass(frozen=True)
class Ability:
    """A runtime that runs a model: from what, and why it cannot here; "" where it can."""

    runtime: str
    formats: tuple[str, ...]
    reason: str


def abilities(architecture: str) -> list[Ability]:
    """The runtimes that run a form of model."""
    formats = OF_CANDLE.get(architecture, ())
    able = [Ability(ORT, ("onnx",), "")]
    return [*able, Ability(CANDLE, formats, missing())] if formats else able


def no_candle(architecture: str | None, format: str) -> str:
    """Why Candle cannot run a form of model from a format, or nothing."""
    if format not in OF_CANDLE.get(architecture or "", ()):
        return f"Candle runs no {architecture} from {format}"
    return missing()


def missing() -> str:
    """Why Candle cannot run here at all, or nothing."""
    return "" if find_spec("candle") else "the package candle-nn is not installed"
