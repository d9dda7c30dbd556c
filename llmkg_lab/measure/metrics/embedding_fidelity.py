"""How well an embedder keeps its reference's vectors and neighbourhoods."""

from dataclasses import asdict

import datasets
import evaluate
import numpy as np

from llmkg_lab.measure.estimate import estimate, extreme

NEIGHBOURS = 10

DESCRIPTION = """
Cosine between the candidate's and the reference's embedding of the same text, and the share of
a text's ten nearest other texts (by cosine) that both agree on. A rotation of all vectors would
change the first and not the second; a search index feels the second.
"""

INPUTS = """
One row per text; the texts should differ from one another.
    predictions, references: the candidate's and the reference's embedding, float.
Returns cosine_mean, cosine_min, neighbours10 (0 to 1).
"""

CITATION = """
@article{lee2009quality,
  title={Quality assessment of dimensionality reduction: Rank-based criteria},
  author={Lee, John A. and Verleysen, Michel},
  journal={Neurocomputing}, volume={72}, pages={1431--1443}, year={2009}
}
"""


class EmbeddingFidelity(evaluate.Metric):
    """The metric; ``compute`` takes the columns of INPUTS by name."""

    def _info(self) -> evaluate.MetricInfo:
        vector = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": vector, "references": vector}),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]]
    ) -> dict[str, dict]:
        candidate, reference = np.array(predictions), np.array(references)  # (texts, hidden)
        cosine = cosines(candidate, reference)
        estimates = {
            "cosine_mean": estimate(np.mean, cosine, unit="texts"),
            "cosine_min": extreme(cosine.min(), len(cosine), "texts"),
        }
        if len(cosine) > NEIGHBOURS:
            shared = _shared_neighbours(candidate, reference)
            estimates["neighbours10"] = estimate(np.mean, shared, unit="texts")
        return {name: asdict(value) for name, value in estimates.items()}


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The cosine of each row (n, hidden) with the other's, (n,) float64."""
    return np.sum(_normalized(left) * _normalized(right), axis=1)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _shared_neighbours(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The share of each text's nearest others that both embeddings have, (texts,)."""
    mine, theirs = _neighbours(candidate), _neighbours(reference)  # (texts, NEIGHBOURS)
    return (mine[:, :, None] == theirs[:, None, :]).sum((1, 2)) / NEIGHBOURS


def _neighbours(vectors: np.ndarray) -> np.ndarray:
    vectors = _normalized(vectors)
    similarity = vectors @ vectors.T  # (texts, texts)
    np.fill_diagonal(similarity, -np.inf)  # a text is not a neighbour of itself
    return np.argpartition(-similarity, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
