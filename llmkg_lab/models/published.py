"""What a variant's checkpoint looks like without its weights: config.json and tensor shapes.

The configurations are data, in published.yaml. From them follow the tensors' names and shapes, and
a reduced model of the same structure: fewer and narrower layers, all else as it is.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from pathlib import Path
from typing import Any

import yaml

from llmkg_lab.models import Form, form_of

Shapes = dict[str, tuple[int, ...]]  # tensor name -> shape, in the order of the forward pass


@dataclass(frozen=True)
class Shape:
    """A published checkpoint: its config.json, and how its files were written."""

    config: dict[str, Any]
    dtype: str  # float32 | float16 | bfloat16
    tokenizer: str  # smollm | llama2 | wordpiece | xlmr
    shards: int = 1
    chat_template: str = ""  # Jinja, as tokenizer_config.json has it
    added_tokens: tuple[str, ...] = ()  # at the end of the vocabulary
    max_length: int | None = None  # tokens, of a sentence embedder

    @cached_property
    def form(self) -> Form:
        """What config.json describes."""
        return form_of(self.config)

    def tensors(self) -> Shapes:
        """Every tensor of the checkpoint."""
        return dict(self.form.tensors())

    def parameters(self) -> int:
        """Their elements in all."""
        return sum(prod(shape) for shape in self.tensors().values())

    def reduced(self) -> "Shape":
        """The same structure in about a million parameters beside the vocabulary's."""
        return replace(self, config=type(self.form).reduced(self.config))


@cache
def known() -> dict[str, Shape]:
    """The shapes by variant's id; an alias is under its original's."""
    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {name: Shape(**entry) for name, entry in content.items() if not name.startswith("_")}
