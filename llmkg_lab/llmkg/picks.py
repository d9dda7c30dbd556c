"""The registry's recommendations: the best model of each kind, from measured facts where there are.

A model that can be loaded goes before one that would have to be converted first; of those, what
was measured decides, and where nothing was, size and date do. Each pick says which.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmkg_lab.llmkg.metadata import ModelMetadata
from llmkg_lab.results.choice import Choice, brief, choose
from llmkg_lab.results.registry import Entry

EMBEDS = "sentence-embedding"
Key = Callable[[ModelMetadata], Any]


@dataclass(frozen=True)
class Pick:
    """A recommended model and the reason; ``measured``: the reason is a measurement."""

    model: ModelMetadata
    reason: str
    measured: bool


@dataclass(frozen=True)
class RecommendedModels:
    """The best model of each kind; None where there is none of that kind."""

    best_overall: Pick | None
    best_chat: Pick | None
    most_efficient: Pick | None
    best_embeddings: Pick | None
    best_multilingual: Pick | None
    latest: Pick | None


def recommended(models: Iterable[ModelMetadata]) -> RecommendedModels:
    """Choose among models: the larger is taken for the better, but for efficiency and date."""
    everything = list(models)
    writers = [m for m in everything if m.capabilities.text_generation]
    chats = [m for m in writers if m.capabilities.chat]
    embedders = [m for m in everything if m.task == EMBEDS]
    multilingual = [m for m in everything if m.capabilities.multilingual]
    return RecommendedModels(
        best_overall=_pick(chats or writers, _largest, "the largest that chats"),
        best_chat=_pick(chats, _newest_then_largest, "the newest that chats, the largest of these"),
        most_efficient=_pick(writers, _cheapest, "what reads fewest bytes for each token"),
        best_embeddings=_pick(embedders, _closest, "the embedder that is closest to its original"),
        best_multilingual=_pick(multilingual, _largest, "the largest for many languages"),
        latest=_pick(everything, _newest_then_largest, "the last one released"),
    )


def chosen(artifacts: Sequence[Entry]) -> Choice[Entry] | None:
    """The artifact to take of a model's, None where it has none."""
    return choose({entry.scheme: entry for entry in reversed(artifacts)})  # of twins, the first


def _pick(models: list[ModelMetadata], key: Key, reason: str) -> Pick | None:
    loadable = [model for model in models if model.artifacts]
    pool = loadable or models
    if not pool:
        return None
    best = max(sorted(pool, key=lambda model: model.huggingface_id), key=key)
    choice = chosen(best.artifacts)
    if choice is None:
        return Pick(best, f"{reason} (not converted here, so nothing of it was measured)", False)
    return Pick(best, f"{reason} among those that can be loaded: {brief(choice.entry)}", True)


def _largest(model: ModelMetadata) -> int:
    return model.parameters


def _newest_then_largest(model: ModelMetadata) -> tuple[str, int]:
    return model.release_date, model.parameters


def _cheapest(model: ModelMetadata) -> int:
    choice = chosen(model.artifacts)
    return -(choice.entry.bytes if choice else model.parameters)


def _closest(model: ModelMetadata) -> tuple[float, int]:
    choice = chosen(model.artifacts)
    cosine = choice.entry.quality.get("cosine_mean") if choice else None
    return cosine.value if cosine else 0.0, model.parameters
