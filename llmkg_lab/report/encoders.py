"""The two kinds of encoders in a report: vectors of an embedder, scores of a cross-encoder.

Both offer the same: what PyTorch computes, and an artifact beside it.
"""

from collections.abc import Mapping

from IPython.display import HTML

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.progress import Progress
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.data.texts import Pairs
from llmkg_lab.measure.quality import Quality, validate_embedder, validate_ranker
from llmkg_lab.reference.outputs import embedder_reference, ranker_reference
from llmkg_lab.report import figures, tables
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.runtime.ort.ranker import Ranker


class Embeddings:
    """Sentences, each embedded by itself and compared by its vector."""

    LATENCY = "embed_ms", "One embedding of a text of 16 tokens"  # of ``speed.measure``; a title
    COMMAND = "embed {} 'A cat sleeps' 'A kitten naps'"

    def __init__(self, checkpoint: Checkpoint, pairs: Pairs, progress: Progress) -> None:
        self._pairs = pairs
        self._reference = embedder_reference(checkpoint, [*pairs.left, *pairs.right], progress)

    def __str__(self) -> str:
        count = len(self._pairs.left)
        return f"{self._pairs.origin}: {count:,} pairs of sentences, each embedded by itself."

    def quality_of(self, artifact: Artifact) -> Quality:
        """Compare an artifact's vectors with the reference's."""
        return validate_embedder(Embedder(artifact), self._reference, self._pairs)

    def moved(self, qualities: Mapping[str, Quality]) -> figures.Picture:
        """How far the vectors moved, by scheme."""
        return figures.cosines(qualities)

    def examples(self, artifact: Artifact, scheme: str) -> HTML:
        """The pairs whose similarity moved most."""
        vectors = self._reference.embeddings
        return tables.moved_pairs(self._pairs, vectors, Embedder(artifact), scheme)


class Scores:
    """Queries and passages, read together and compared by their score."""

    LATENCY = "pair_ms", "One score of a pair of 16 tokens"
    COMMAND = "rank {} 'how tall is it' 'The tower is 300 m tall.' 'It rains.'"

    def __init__(self, checkpoint: Checkpoint, pairs: Pairs, progress: Progress) -> None:
        self._pairs = pairs
        self._reference = ranker_reference(checkpoint, pairs.candidates(), progress)

    def __str__(self) -> str:
        queries = self._reference.candidates.query
        return (
            f"{self._pairs.origin}: {len(queries):,} pairs of query and passage, "
            f"of {queries[-1] + 1} queries."
        )

    def quality_of(self, artifact: Artifact) -> Quality:
        """Compare an artifact's scores with the reference's."""
        return validate_ranker(Ranker(artifact), self._reference, self._pairs)

    def moved(self, qualities: Mapping[str, Quality]) -> figures.Picture:
        """Each pair's score beside the reference's, by scheme."""
        return figures.scores(qualities, self._reference.scores)

    def examples(self, artifact: Artifact, scheme: str) -> HTML:
        """The pairs whose score moved most."""
        scores = Ranker(artifact).score(self._reference.candidates.pairs)
        return tables.moved_scores(self._reference, scores, scheme)


KINDS: dict[str, type[Embeddings | Scores]] = {  # by task
    "sentence-embedding": Embeddings,
    "feature-extraction": Embeddings,
    "text-ranking": Scores,
}
