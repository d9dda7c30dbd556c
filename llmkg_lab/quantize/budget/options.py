"""The layouts that a matrix may take, what each costs in bytes and in divergence, as a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from llmkg_lab.artifact import ALIGNMENT
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.scheme import Layout

FORMAT = "llmkg-lab/sensitivities/1"


def _layout(bits: int, block_size: int, symmetric: bool) -> Layout:
    return Layout(bits, block_size, symmetric, half_scales=True)


# Of the layouts that ONNX Runtime multiplies at full speed, those that are worth their bytes.
CANDIDATES = (
    *(_layout(2, size, False) for size in (32, 64)),
    *(_layout(4, size, symmetric) for size in (32, 64, 128) for symmetric in (False, True)),
    *(_layout(8, size, True) for size in (32, 64, 128)),
)
TABLES = (*(_layout(4, size, False) for size in (32, 64)), *CANDIDATES[-3:])


class SensitivityError(LabError):
    """A file that holds no sensitivities."""


@dataclass(frozen=True)
class Option:
    """One layout that a matrix may take."""

    layout: Layout
    nbytes: int  # of codes, scales and zero points, and of what aligns them in the file
    kl: float  # nats per token, of the model with only this matrix quantized


@dataclass(frozen=True)
class Sensitivities:
    """The options of each matrix as the graph stores it, by the name of its first part.

    fixed_bytes: what the artifact holds besides: vectors and the graph, an upper bound.
    record: what was measured on, and predictions beside measurements:
        {"corpus", "sha256", "tokens", "window", "parameters",
         "confirmed": [{"name", "kind", "layout", "predicted", "measured"}, …],
         "correction": factor by kind that made predictions fit what was measured}.
    """

    matrices: dict[str, tuple[Option, ...]]
    fixed_bytes: int
    record: dict

    def to_json(self) -> str:
        """The content of a file, as ``save`` writes it."""
        matrices = {
            name: [
                {**asdict(option.layout), "nbytes": option.nbytes, "kl": option.kl}
                for option in options
            ]
            for name, options in self.matrices.items()
        }
        content = {"format": FORMAT, "fixed_bytes": self.fixed_bytes, "record": self.record}
        return json.dumps({**content, "matrices": matrices}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises SensitivityError on anything that ``to_json`` does not write."""
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise SensitivityError(f"sensitivities of the format {content['format']!r}")
            matrices = {
                name: tuple(_option(**entry) for entry in options)
                for name, options in content["matrices"].items()
            }
            return cls(matrices, int(content["fixed_bytes"]), content["record"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise SensitivityError(
                f"no sensitivities: {error!r}", "measure them again, with sensitivity.measure"
            ) from None

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        Path(path).write_text(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote. Raises SensitivityError, OSError."""
        return cls.from_json(Path(path).read_text())


def fixed_bytes(checkpoint: Checkpoint) -> int:
    """What a Llama's artifact holds besides its matrices: vectors and the graph, a bound."""
    shapes = [info.shape for info in checkpoint.tensors.values()]
    vectors = sum(4 * shape[0] for shape in shapes if len(shape) == 1)
    return vectors + graph_bytes(len(list(checkpoint.form.units())))


def graph_bytes(matrices: int) -> int:
    """A bound on the graph's own size: nodes, names, shapes; SmolLM2-135M's has 1,196 a matrix."""
    return 10_000 + 1_280 * matrices


def stored_bytes(layout: Layout, rows: int, columns: int) -> int:
    """A bound on what a matrix takes in the data file, the padding between tensors included."""
    return layout.nbytes(rows, columns) + 3 * ALIGNMENT


def _option(nbytes: int, kl: float, **layout: Any) -> Option:
    return Option(Layout(**layout), int(nbytes), float(kl))
