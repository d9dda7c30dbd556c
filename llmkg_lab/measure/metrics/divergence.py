"""How far a decoder's next-token distributions lie from its reference's."""

from dataclasses import asdict
from functools import partial

import datasets
import evaluate
import numpy as np

from llmkg_lab.measure.estimate import estimate, extreme

DESCRIPTION = """
Kullback-Leibler divergence of a quantized decoder's next-token distribution from the
reference's, KL(reference || candidate) in nats per token, with agreement of the most likely token
and perplexity of both on the same text. Intervals draw blocks of neighbouring tokens.
"""

INPUTS = """
One row a scored token, all from the same logits; quality.token_statistics computes them.
    kl: KL(reference || candidate), nats.
    nll_reference, nll_candidate: negative log-likelihood of the token that follows, nats.
    same_top1: 1 where both hold the same token for the most likely, else 0.
    block: tokens with the same number are drawn together.
Returns kl_mean, kl_p99, kl_max, top1_agreement, perplexity, perplexity_reference,
perplexity_ratio (paired: exp of the mean difference of the log-likelihoods).
"""

CITATION = """
@article{kullback1951information,
  title={On Information and Sufficiency},
  author={Kullback, S. and Leibler, R. A.},
  journal={The Annals of Mathematical Statistics}, volume={22}, pages={79--86}, year={1951}
}
@article{jelinek1977perplexity,
  title={Perplexity: a measure of the difficulty of speech recognition tasks},
  author={Jelinek, F. and Mercer, R. L. and Bahl, L. R. and Baker, J. K.},
  journal={Journal of the Acoustical Society of America}, volume={62}, year={1977}
}
"""


class Divergence(evaluate.Metric):
    """The metric; ``compute`` takes the columns of INPUTS by name."""

    def _info(self) -> evaluate.MetricInfo:
        floats = ("kl", "nll_reference", "nll_candidate", "same_top1")
        features = {name: datasets.Value("float64") for name in floats}
        features["block"] = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, **columns: list[float]) -> dict[str, dict]:
        # lists, because evaluate's own conversion to NumPy would round to float32
        column = {name: np.asarray(values) for name, values in columns.items()}
        kl, candidate = column["kl"], column["nll_candidate"]
        reference = column["nll_reference"]
        over = partial(estimate, unit="tokens", blocks=column["block"])
        estimates = {
            "kl_mean": over(np.mean, kl),
            "kl_p99": over(lambda values: np.quantile(values, 0.99), kl),
            "kl_max": extreme(kl.max(), len(kl), "tokens"),
            "top1_agreement": over(np.mean, column["same_top1"]),
            "perplexity": over(_perplexity, candidate),
            "perplexity_reference": over(_perplexity, reference),
            "perplexity_ratio": over(_perplexity, candidate - reference),
        }
        return {name: asdict(value) for name, value in estimates.items()}


def _perplexity(nll: np.ndarray) -> float:
    return np.exp(np.mean(nll))
