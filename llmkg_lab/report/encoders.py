"""Encoders in one notebook: embedders are compared by their vectors, cross-encoders by scores."""

from IPython.display import HTML
from matplotlib.figure import Figure

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.data.texts import Pairs
from llmkg_lab.measure.quality import Quality, validate_embedder, validate_ranker
from llmkg_lab.reference.outputs import (
    EmbedderReference,
    RankerReference,
    embedder_reference,
    ranker_reference,
)
from llmkg_lab.report import figures, tables
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.runtime.ort.ranker import Ranker

RANKING = "text-ranking"
Reference = EmbedderReference | RankerReference


def reference(task: str, checkpoint: Checkpoint, pairs: Pairs) -> Reference:
    """What PyTorch computes: scores of pairs for ranking, else the sentences' embeddings."""
    if task == RANKING:
        return ranker_reference(checkpoint, pairs.candidates())
    return embedder_reference(checkpoint, [*pairs.left, *pairs.right])


def validate(artifact: Artifact, reference: Reference, pairs: Pairs) -> Quality:
    """Compare an artifact with its reference."""
    if isinstance(reference, RankerReference):
        return validate_ranker(Ranker(artifact), reference, pairs)
    return validate_embedder(Embedder(artifact), reference, pairs)


def figure(qualities: dict[str, Quality], reference: Reference) -> Figure:
    """How far embeddings or scores moved."""
    if isinstance(reference, RankerReference):
        return figures.scores(qualities, reference.scores)
    return figures.cosines(qualities)


def examples(artifact: Artifact, reference: Reference, pairs: Pairs, scheme: str) -> HTML:
    """What moved most in one artifact."""
    if isinstance(reference, RankerReference):
        scores = Ranker(artifact).score(reference.candidates.pairs)
        return tables.moved_scores(reference, scores, scheme)
    return tables.moved_pairs(pairs, reference.embeddings, Embedder(artifact), scheme)


def latency(task: str) -> tuple[str, str]:
    """The metric of ``speed.measure`` that a reader asks for first, and its title."""
    if task == RANKING:
        return "pair_ms", "One score of a pair of 16 tokens"
    return "embed_ms", "One embedding of a text of 16 tokens"
