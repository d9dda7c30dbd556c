"""How well cosines of sentence pairs rank them as people do."""

from dataclasses import asdict

import datasets
import evaluate
import numpy as np

from llmkg_lab.measure.estimate import estimate

DESCRIPTION = """
Spearman's rank correlation between the cosine of two sentences' embeddings and the similarity
that people gave the pair, for the candidate, for its reference, and the ratio of the two.
"""

INPUTS = """
One row a sentence pair.
    predictions, references: the cosine by the candidate and by the reference.
    scores: the people's score.
Returns spearman, spearman_reference, spearman_ratio (the share that is kept; paired).
"""

CITATION = """
@article{spearman1904proof,
  title={The Proof and Measurement of Association between Two Things},
  author={Spearman, C.},
  journal={The American Journal of Psychology}, volume={15}, pages={72--101}, year={1904}
}
@article{reimers2016task,
  title={Task-Oriented Intrinsic Evaluation of Semantic Textual Similarity},
  author={Reimers, Nils and Beyer, Philip and Gurevych, Iryna},
  journal={Proceedings of COLING}, pages={87--96}, year={2016}
}
"""


class HumanAgreement(evaluate.Metric):
    """The metric; ``compute`` takes the columns of INPUTS by name."""

    def _info(self) -> evaluate.MetricInfo:
        columns = ("predictions", "references", "scores")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value("float64") for name in columns}),
        )

    def _compute(
        self, predictions: list[float], references: list[float], scores: list[float]
    ) -> dict[str, dict]:
        candidate, reference, people = map(np.asarray, (predictions, references, scores))
        estimates = {
            "spearman": estimate(_spearman, candidate, people, unit="pairs"),
            "spearman_reference": estimate(_spearman, reference, people, unit="pairs"),
            "spearman_ratio": estimate(_ratio, candidate, reference, people, unit="pairs"),
        }
        return {name: asdict(value) for name, value in estimates.items()}


def _spearman(cosines: np.ndarray, scores: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return spearmanr(cosines, scores).statistic


def _ratio(candidate: np.ndarray, reference: np.ndarray, scores: np.ndarray) -> float:
    return _spearman(candidate, scores) / _spearman(reference, scores)
