"""How long a decoder's greedy continuations stay with the reference's."""

from dataclasses import asdict

import datasets
import evaluate
import numpy as np

from llmkg_lab.measure.estimate import estimate

DESCRIPTION = """
Tokens that two greedy continuations of the same prompt have in common before the first that
differs. One changed token changes all that follow, so this shows what a user would see.
"""

INPUTS = """
One row a prompt.
    predictions, references: token ids of the candidate's and the reference's continuation.
Returns common_prefix, the mean over the prompts, in tokens.
"""

CITATION = """
@article{dutta2024accuracy,
  title={Accuracy is Not All You Need},
  author={Dutta, Abhinav and Krishnan, Sanjeev and Kwatra, Nipun and Ramjee, Ramachandran},
  journal={arXiv:2407.09141}, year={2024}
}
"""


class Continuation(evaluate.Metric):
    """The metric; ``compute`` takes the columns of INPUTS by name."""

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _compute(self, predictions: list[list[int]], references: list[list[int]]) -> dict:
        lengths = [_common_prefix(*row) for row in zip(predictions, references, strict=True)]
        return {"common_prefix": asdict(estimate(np.mean, np.array(lengths), unit="prompts"))}


def _common_prefix(left: list[int], right: list[int]) -> int:
    same = [a == b for a, b in zip(left, right, strict=False)]
    return same.index(False) if False in same else len(same)
