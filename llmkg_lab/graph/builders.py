"""One readable file an architecture; each builds its graph as the model's own forward pass."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.graph import bert, llama, openelm
from llmkg_lab.graph.layers import Layers
from llmkg_lab.models.base import UnsupportedError

__all__ = ["Architecture", "UnsupportedError", "architecture_of", "task_of"]


@dataclass(frozen=True)
class Architecture:
    """How the checkpoints of one ``model_type`` become a graph."""

    name: str
    tasks: dict[str, str]  # the class that config.json names -> the task
    unused: str  # tensors that a checkpoint may hold and no graph needs: a regular expression
    build: Callable[[Layers, Checkpoint, str], None]
    head: Callable[[dict], str] | None = None  # config.json -> the tensor that makes the logits


def _build_llama(layers: Layers, checkpoint: Checkpoint, task: str) -> None:
    llama.build(layers, llama.Config.read(checkpoint.config, checkpoint.tensors))


def _build_openelm(layers: Layers, checkpoint: Checkpoint, task: str) -> None:
    openelm.build(layers, openelm.Config.read(checkpoint.config))


def _build_bert(layers: Layers, checkpoint: Checkpoint, task: str) -> None:
    config = bert.Config.read(checkpoint.config, checkpoint.tensors)
    bert.build(layers, config, task, checkpoint.pooling)


ARCHITECTURES = {
    "llama": Architecture(
        "llama",
        {"LlamaForCausalLM": "text-generation"},
        unused=r".*rotary_emb\.inv_freq|lm_head\.weight",
        build=_build_llama,
        head=llama.head_tensor,
    ),
    "openelm": Architecture(
        "openelm",
        {"OpenELMForCausalLM": "text-generation"},
        unused=r"lm_head\.weight",
        build=_build_openelm,
        head=openelm.head_tensor,
    ),
    "bert": Architecture(
        "bert",
        {
            "BertModel": "feature-extraction",
            "BertForMaskedLM": "feature-extraction",
            "BertForSequenceClassification": "text-ranking",
        },
        unused=r".*embeddings\.position_ids|(bert\.)?pooler\..*|cls\..*",
        build=_build_bert,
    ),
}


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The architecture that config.json names. Raises UnsupportedError on others, by name."""
    kind = checkpoint.config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UnsupportedError(
            f"{checkpoint.path}: model_type {kind!r} is not supported",
            f"supported are {', '.join(ARCHITECTURES)}",
        )
    return ARCHITECTURES[kind]


def task_of(checkpoint: Checkpoint) -> str:
    """What the checkpoint is made for, by the class that config.json names and its pooling."""
    tasks = architecture_of(checkpoint).tasks
    named = checkpoint.config.get("architectures") or list(tasks)[:1]
    task = tasks.get(named[0])
    if task is None:
        raise UnsupportedError(
            f"{checkpoint.path}: architecture {named[0]!r} is not supported",
            f"supported are {', '.join(tasks)}",
        )
    if task == "feature-extraction" and checkpoint.pooling:
        return "sentence-embedding"
    return task


def is_unused(architecture: Architecture, name: str) -> bool:
    """Whether a graph may do without the tensor ``name``."""
    return re.fullmatch(architecture.unused, name) is not None
