"""How well a cross-encoder keeps its reference's scores, and the rankings that follow from them."""

from dataclasses import asdict
from functools import partial

import datasets
import evaluate
import numpy as np

from llmkg_lab.measure.estimate import estimate

DEPTH = 10  # passages that a reader looks at

DESCRIPTION = """
Correlation of the candidate's scores with the reference's over all pairs, by value (Pearson) and
by rank (Spearman); and query by query, the agreement of the two rankings of its passages:
Kendall's tau, and NDCG at 10 with the reference's probability of relevance as the gain.
"""

INPUTS = """
One row per pair of query and passage.
    predictions, references: the candidate's and the reference's score, a logit.
    query: an integer; rows with the same one are ranked against each other.
Returns score_pearson, score_spearman, kendall, ndcg10. Intervals draw whole queries.
"""

CITATION = """
@article{kendall1938new,
  title={A New Measure of Rank Correlation},
  author={Kendall, M. G.},
  journal={Biometrika}, volume={30}, pages={81--93}, year={1938}
}
@article{jarvelin2002cumulated,
  title={Cumulated gain-based evaluation of {IR} techniques},
  author={J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal={ACM Transactions on Information Systems}, volume={20}, pages={422--446}, year={2002}
}
"""


class RankingFidelity(evaluate.Metric):
    """The metric; ``compute`` takes the columns of INPUTS by name."""

    def _info(self) -> evaluate.MetricInfo:
        columns = {name: datasets.Value("float64") for name in ("predictions", "references")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(columns | {"query": datasets.Value("int64")}),
        )

    def _compute(
        self, predictions: list[float], references: list[float], query: list[int]
    ) -> dict[str, dict]:
        from scipy.stats import kendalltau, spearmanr

        candidate, reference = np.asarray(predictions), np.asarray(references)
        queries = np.asarray(query)
        rankings = [(candidate[queries == q], reference[queries == q]) for q in np.unique(queries)]
        taus = np.array([kendalltau(*ranking).statistic for ranking in rankings])  # (queries,)
        gains = np.array([ndcg(*ranking) for ranking in rankings])

        def pearson(left: np.ndarray, right: np.ndarray) -> float:
            return np.corrcoef(left, right)[0, 1]

        def spearman(left: np.ndarray, right: np.ndarray) -> float:
            return spearmanr(left, right).statistic

        over = partial(estimate, unit="pairs", blocks=queries)
        estimates = {
            "score_pearson": over(pearson, candidate, reference),
            "score_spearman": estimate(
                spearman, candidate, reference, unit="pairs", blocks=queries
            ),
            "kendall": estimate(np.mean, taus, unit="queries"),
            "ndcg10": estimate(np.mean, gains, unit="queries"),
        }
        return {name: asdict(value) for name, value in estimates.items()}


def ndcg(candidate: np.ndarray, reference: np.ndarray, depth: int = DEPTH) -> float:
    """NDCG at ``depth`` of the candidate's ranking of one query's passages, 0 to 1.

    candidate, reference: logits (passages,). A passage's gain is the reference's probability
    that it is relevant, the logistic function of its logit.
    """
    gains = 1 / (1 + np.exp(-reference))
    discounts = 1 / np.log2(np.arange(2, 2 + min(depth, len(gains))))
    ranked = gains[np.argsort(-candidate, kind="stable")][: len(discounts)]
    best = np.sort(gains)[::-1][: len(discounts)]
    return float(ranked @ discounts / (best @ discounts))
