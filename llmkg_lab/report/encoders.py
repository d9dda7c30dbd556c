"""The two kinds of encoders in a report: vectors of an embedder, scores of a cross-encoder.

Both offer the same: what the original computes in PyTorch, and an artifact beside it, which must
read each text as the same tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from IPython.display import HTML

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.progress import Progress
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.data.texts import Pairs
from llmkg_lab.measure.protocol import check_tokens
from llmkg_lab.measure.quality import Quality, QualityError, validate_embedder, validate_ranker
from llmkg_lab.reference.outputs import embedder_reference, ranker_reference
from llmkg_lab.reference.tokens import Tokens
from llmkg_lab.report import figures, tables
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.runtime.ort.ranker import Ranker

LENGTHS = 32  # vectors whose lengths are looked at


class Embeddings:
    """Sentences, each embedded by itself and compared by its vector."""

    LATENCY = "embed_ms", "One embedding of a text of 16 tokens"  # of ``speed.measure``; a title
    COMMAND = "embed {} 'A cat sleeps' 'A kitten naps'"

    def __init__(
        self, checkpoint: Checkpoint, pairs: Pairs, prose: Sequence[str], progress: Progress
    ) -> None:
        self._pairs = pairs
        self._reference = embedder_reference(checkpoint, [*pairs.left, *pairs.right], progress)
        self._prose = embedder_reference(checkpoint, prose, progress) if prose else None

    def __str__(self) -> str:
        count = len(self._pairs.left)
        own = "no text of the kind that schemes are calibrated on"
        if self._prose:
            own = f"{len(self._prose.texts):,} sentences of the kind that schemes are calibrated on"
        return (
            f"{self._pairs.origin}: {count:,} pairs of sentences, each embedded by itself, text of "
            f"another kind than schemes are calibrated on.\nBeside them {own}.\n"
            f"Reference: {self._reference.judge}."
        )

    def quality_of(self, artifact: Artifact) -> Quality:
        """Compare an artifact's tokens and vectors with the reference's.

        Raises TokensDifferError, or QualityError where only one of the two normalizes.
        """
        embedder, reference = Embedder(artifact), self._reference
        for every in filter(None, (reference, self._prose)):
            read = _tokens(embedder.inputs(every.texts))
            for text, ours, theirs in zip(every.texts, read, every.tokens, strict=True):
                check_tokens(repr(text), ours, theirs, embedder.tokenizer.core)
        some = reference.texts[:LENGTHS]
        lengths = (np.linalg.norm(v, axis=1) for v in (embedder.embed(some), reference.embeddings))
        if len({bool(np.allclose(length, 1, atol=1e-3)) for length in lengths}) > 1:
            raise QualityError(
                "vectors have the length 1 in the artifact or in the reference, not in both",
                "the checkpoint's modules were read wrongly: convert it again",
            )
        quality = validate_embedder(embedder, reference, self._pairs)
        if self._prose is None:
            return quality
        own = validate_embedder(embedder, self._prose).metrics["cosine_mean"]
        return replace(quality, metrics=quality.metrics | {"cosine_calibrated": own})

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

    def __init__(
        self, checkpoint: Checkpoint, pairs: Pairs, prose: Sequence[str], progress: Progress
    ) -> None:
        self._pairs = pairs  # of another kind than ``prose``, which has no queries to rank for
        self._reference = ranker_reference(checkpoint, pairs.candidates(), progress)

    def __str__(self) -> str:
        queries = self._reference.candidates.query
        return (
            f"{self._pairs.origin}: {len(queries):,} pairs of query and passage, "
            f"of {queries[-1] + 1} queries.\nReference: {self._reference.judge}."
        )

    def quality_of(self, artifact: Artifact) -> Quality:
        """Compare an artifact's tokens and scores with the reference's.

        Raises TokensDifferError.
        """
        ranker, reference = Ranker(artifact), self._reference
        pairs = reference.candidates.pairs
        core, read = ranker.tokenizer.core, _tokens(ranker.inputs(pairs))
        for pair, ours, theirs in zip(pairs, read, reference.tokens, strict=True):
            check_tokens(repr(pair), ours, theirs, core)
        return validate_ranker(ranker, reference, self._pairs)

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


def _tokens(inputs: Mapping[str, np.ndarray]) -> Iterator[Tokens]:
    names = ("input_ids", "token_type_ids", "attention_mask")
    for ids, types, mask in zip(*(inputs[name] for name in names), strict=True):
        yield Tokens(ids[mask == 1].tolist(), types[mask == 1].tolist())
