"""Choosing the next token from the logits, as transformers does, without torch."""

import numpy as np

from llmkg_lab.runtime import InferenceError

COLDEST = 1e-5  # a temperature below it is as 0: logits divided by less may not be numbers any more
PENALTIES = 0.01, 100.0  # of repetition: beyond, the same


class Sampler:
    """Repetition penalty, temperature, top-k, top-p, then one draw: the order of transformers.

    temperature: 0 or None takes the most likely token, and top-k and top-p play no part.
    top_k: keep the k most likely tokens, and those as likely as the last of them; 0 or None
        keeps all.
    top_p: keep the fewest most likely tokens whose probabilities reach p (nucleus sampling,
        Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).
    repetition_penalty: divide the positive and multiply the negative logits of tokens in the
        history by it (Keskar et al. 2019, https://arxiv.org/abs/1909.05858).
    seed: the same seed and logits give the same tokens; None draws a fresh one.
    """

    def __init__(
        self,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> None:
        _check("temperature", temperature, temperature is None or 0 <= temperature < np.inf, "≥ 0")
        _check("top_k", top_k, top_k is None or (top_k >= 0 and top_k == int(top_k)), "whole, ≥ 0")
        _check("top_p", top_p, top_p is None or 0 <= top_p <= 1, "between 0 and 1")
        low, high = PENALTIES
        within = low <= repetition_penalty <= high
        _check("repetition_penalty", repetition_penalty, within, f"between {low:g} and {high:g}")
        _check("seed", seed, seed is None or seed >= 0, "≥ 0")
        self.temperature = temperature if temperature and temperature >= COLDEST else 0.0
        self.top_k = top_k or None
        self.top_p = 1.0 if top_p is None else top_p
        self.repetition_penalty = repetition_penalty
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray, history: np.ndarray) -> int:
        """The next token. logits: (vocab,) float32; history: (tokens,) int64, prompt included."""
        if self.temperature == 0:
            scores = self._penalize(logits, history)
            token = int(scores.argmax())
            _check_finite(scores[token])
            return token
        tokens, probabilities = self.distribution(logits, history)
        # The inverse of the cumulative distribution: one random number per token, for any k and p.
        cumulative = probabilities.cumsum()
        drawn = cumulative.searchsorted(self._random.random() * cumulative[-1], side="right")
        return int(tokens[drawn])

    def distribution(
        self, logits: np.ndarray, history: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that may be drawn (n,), most likely first, and their probabilities (n,)."""
        scores = self._penalize(logits, history) / self.temperature
        _check_finite(scores.max())
        tokens = self._most_likely(scores)
        probabilities = np.exp(scores[tokens] - scores[tokens[0]], dtype=np.float64)
        probabilities /= probabilities.sum()
        if self.top_p < 1:
            # A token stays while the ones before it have not reached p; the first always stays.
            before = probabilities.cumsum() - probabilities
            kept = max(1, int(before.searchsorted(self.top_p)))
            tokens, probabilities = tokens[:kept], probabilities[:kept]
            probabilities /= probabilities.sum()
        return tokens, probabilities

    def _penalize(self, logits: np.ndarray, history: np.ndarray) -> np.ndarray:
        if self.repetition_penalty == 1:
            return logits
        scores = logits.copy()
        seen = np.unique(history)
        scores[seen] = np.where(
            scores[seen] < 0,
            scores[seen] * self.repetition_penalty,
            scores[seen] / self.repetition_penalty,
        )
        return scores

    def _most_likely(self, scores: np.ndarray) -> np.ndarray:
        """The tokens that top-k leaves, most likely first; equal ones in the vocabulary's order."""
        if self.top_k is None or self.top_k >= len(scores):
            return np.argsort(-scores, kind="stable")
        threshold = np.partition(scores, -self.top_k)[-self.top_k]
        tokens = np.flatnonzero(scores >= threshold)
        return tokens[np.argsort(-scores[tokens], kind="stable")]


def _check(name: str, value: float | None, valid: bool, wanted: str) -> None:
    if not valid:
        raise InferenceError(f"{name} is {value}", f"it has to be {wanted}")


def _check_finite(best: np.floating) -> None:
    if not np.isfinite(best):
        raise InferenceError(
            f"the model's logits are not numbers (their largest is {best})",
            "check the artifact with `llmkg-lab verify`, or convert it again",
        )
