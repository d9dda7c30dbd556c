"""What quantization cost: a candidate's outputs against its reference's.

The measures themselves are the ``evaluate`` modules in ``metrics``; here the models are run,
and each token is reduced to a few numbers, so that logits never have to be stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Progress, silent, track
from llmkg_lab.data.texts import Pairs
from llmkg_lab.measure.estimate import CONFIDENCE, RESAMPLES
from llmkg_lab.measure.protocol import Reading
from llmkg_lab.measure.values import Estimate
from llmkg_lab.reference.outputs import DecoderReference, EmbedderReference, RankerReference

CHUNK = 32  # positions at a time: with a vocabulary of 49 k, 12 MB an array of float64

# Tokens that the bootstrap draws together. Neighbours' losses are correlated: on SmolLM2-135M
# and WikiText-2 (24 windows of 512) the variance of a block's mean KL divergence is 1.0, 3.0,
# 3.9, 3.3 times that of independent tokens in blocks of 1, 64, 128, 511, and of log-likelihood
# 1.0, 3.2, 4.6, 4.6. Blocks of 128 hold the correlation, and few windows still give many.
BLOCK = 128


class QualityError(LabError):
    """Outputs that cannot be compared."""


class Decoder(Protocol):
    """What is validated as a decoder."""

    def logits(self, input_ids: np.ndarray) -> np.ndarray:
        """(1, tokens) int64 -> (1, tokens, vocab) float32."""

    def generate(self, prompt_ids: Sequence[int], max_tokens: int) -> Iterator[int]:
        """The greedy continuation of a prompt."""


class Embedder(Protocol):
    """What is validated as an embedder."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> (texts, hidden) float32."""


class Ranker(Protocol):
    """What is validated as a cross-encoder."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Pairs of query and passage -> (pairs,) float32."""


@dataclass(frozen=True)
class Quality:
    """Estimates by metric; samples are what they were computed from, for figures.

    A decoder's samples: ``kl``, ``nll_reference``, ``nll_candidate`` and ``same_top1``, each
    (windows * (tokens - 1),) float64, the prediction behind token t of window i standing at
    i * (tokens - 1) + t; ``continuations`` (prompts, tokens) int64, -1 where one ended early.
    An embedder's: ``cosine`` (different texts,). A ranker's: ``scores`` (pairs,).
    ``detail`` is the protocol: corpus, SHA-256, windows, tokens scored, reference, interval.
    """

    metrics: dict[str, Estimate]
    samples: dict[str, np.ndarray]
    detail: dict


def validate_decoder(
    decoder: Decoder,
    reference: DecoderReference,
    reading: Reading,
    progress: Progress = silent,
) -> Quality:
    """Compare a decoder with its reference on the windows and prompts of the reference.

    reading: where these come from, for the result.
    A window's first token has no prediction before it: the logits at positions 0 … w-2 are
    scored against the tokens 1 … w-1. Windows do not overlap, so tokens near a window's start
    have little context and perplexity is higher than with a sliding window.
    Raises QualityError where the outputs do not fit the reference's or are not finite.
    """
    samples = score_windows(decoder, reference, progress)
    metrics = divergence(samples, *reference.windows.shape)
    if reference.prompts:
        from llmkg_lab.measure.metrics.continuation import Continuation  # seconds to import

        continued = _continue_prompts(decoder, reference, progress)
        outputs = {"predictions": continued, "references": reference.continuations}
        metrics |= _estimates(Continuation(keep_in_memory=True).compute(**outputs))
        samples["continuations"] = _padded(continued, len(reference.continuations[0]))
    return Quality(metrics, samples, _decoder_protocol(reference, reading))


ELSEWHERE = {  # what is measured on text of another kind, too, and its name there
    "kl_mean": "kl_elsewhere",
    "top1_agreement": "top1_elsewhere",
    "perplexity_ratio": "perplexity_ratio_elsewhere",
}


def with_elsewhere(
    quality: Quality,
    decoder: Decoder,
    reference: DecoderReference,
    reading: Reading,
    progress: Progress = silent,
) -> Quality:
    """Add to a decoder's quality what it is on text of another kind.

    reference, reading: of that text. Raises QualityError as ``validate_decoder`` does.
    """
    samples = score_windows(decoder, reference, progress)
    found = divergence(samples, *reference.windows.shape)
    metrics = quality.metrics | {ELSEWHERE[name]: found[name] for name in ELSEWHERE}
    protocol = _decoder_protocol(reference, reading)
    named = ("corpus", "origin", "sha256", "windows", "tokens_scored")
    detail = quality.detail | {f"elsewhere_{name}": protocol[name] for name in named}
    return Quality(metrics, quality.samples, detail)


def score_windows(
    decoder: Decoder,
    reference: DecoderReference,
    progress: Progress = silent,
) -> dict[str, np.ndarray]:
    """The samples of ``validate_decoder``, without those of prompts."""
    parts = []
    for i, window in enumerate(track(list(reference.windows), progress, "scoring", "windows")):
        candidate = decoder.logits(window[None])[0]  # (tokens, vocab)
        parts.append(token_statistics(reference.logits(i)[:-1], candidate[:-1], window[1:]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def divergence(samples: Mapping[str, np.ndarray], windows: int, tokens: int) -> dict[str, Estimate]:
    """Estimates from the samples of ``score_windows`` over (windows, tokens)."""
    from llmkg_lab.measure.metrics.divergence import Divergence  # evaluate takes seconds to import

    scored = {**samples, "block": _blocks(windows, tokens)}
    return _estimates(Divergence(keep_in_memory=True).compute(**scored))


def validate_embedder(
    embedder: Embedder, reference: EmbedderReference, pairs: Pairs | None = None
) -> Quality:
    """Compare an embedder with its reference on the reference's texts.

    pairs: scored pairs of those texts, for the agreement with people.
    Raises QualityError where the embeddings do not fit the reference's or are not finite.
    """
    from llmkg_lab.measure.metrics.embedding_fidelity import EmbeddingFidelity, cosines
    from llmkg_lab.measure.metrics.human_agreement import HumanAgreement

    row = {text: i for i, text in enumerate(reference.texts)}  # a text that is there twice, once
    expected = reference.embeddings[list(row.values())]
    embeddings = embedder.embed(list(row))
    _check(embeddings, expected.shape, "embeddings")
    outputs = {"predictions": embeddings, "references": expected}
    metrics = EmbeddingFidelity(keep_in_memory=True).compute(**outputs)
    if pairs is not None:
        place = {text: i for i, text in enumerate(row)}
        left, right = ([place[text] for text in side] for side in (pairs.left, pairs.right))
        ranked = {name: cosines(vectors[left], vectors[right]) for name, vectors in outputs.items()}
        metrics |= HumanAgreement(keep_in_memory=True).compute(**ranked, scores=pairs.scores)
    samples = {"cosine": cosines(embeddings, expected)}
    return Quality(
        _estimates(metrics), samples, _embedder_protocol(len(row), reference.judge, pairs)
    )


def validate_ranker(ranker: Ranker, reference: RankerReference, pairs: Pairs) -> Quality:
    """Compare a cross-encoder with its reference on the reference's pairs.

    pairs: what the candidates were made of, for the protocol.
    Raises QualityError where scores are not finite.
    """
    from llmkg_lab.measure.metrics.ranking_fidelity import RankingFidelity

    candidates = reference.candidates
    scores = ranker.score(candidates.pairs)
    _check(scores, reference.scores.shape, "scores")
    metrics = RankingFidelity(keep_in_memory=True).compute(
        predictions=scores, references=reference.scores, query=candidates.query
    )
    detail = _embedder_protocol(len(scores), reference.judge, pairs)
    detail["queries"] = int(candidates.query.max()) + 1
    return Quality(_estimates(metrics), {"scores": scores}, detail)


def token_statistics(
    reference_logits: np.ndarray, candidate_logits: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Reduce two models' logits (n, vocab) to what counts about each of n predictions.

    targets: (n,) integers, the tokens that follow.
    Returns float64 arrays (n,): ``kl`` is KL(reference || candidate) in nats;
    ``nll_reference`` and ``nll_candidate`` are -log p(target); ``same_top1`` is 1 or 0.
    Computed in float64, a few positions at a time.
    Raises QualityError where shapes differ or logits are not finite.
    """
    _check(candidate_logits, reference_logits.shape, "logits")

    def chunk(start: int) -> dict[str, np.ndarray]:
        rows = slice(start, start + CHUNK)
        return _statistics(reference_logits[rows], candidate_logits[rows], targets[rows])

    with ThreadPoolExecutor() as pool:  # NumPy's loops run beside one another
        parts = list(pool.map(chunk, range(0, len(targets), CHUNK)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _statistics(
    reference: np.ndarray, candidate: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    r, c = (logits.astype(np.float64) for logits in (reference, candidate))  # (chunk, vocab)
    r -= r.max(1, keepdims=True)
    c -= c.max(1, keepdims=True)
    weights = np.exp(r)
    sum_r = weights.sum(1)
    log_r, log_c = np.log(sum_r), np.log(np.exp(c).sum(1))
    kl = np.einsum("nv,nv->n", weights, r - c) / sum_r + log_c - log_r
    rows = np.arange(len(targets))
    return {
        "kl": np.maximum(kl, 0),  # rounding leaves -1e-16 where the two are alike
        "nll_reference": log_r - r[rows, targets],
        "nll_candidate": log_c - c[rows, targets],
        "same_top1": (r.argmax(1) == c.argmax(1)).astype(np.float64),
    }


def _check(outputs: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if outputs.shape != shape:
        raise QualityError(
            f"the candidate's {what} have the shape {outputs.shape}, the reference's {shape}",
            "compare an artifact with the checkpoint that it was made from",
        )
    if not np.isfinite(outputs).all():
        raise QualityError(
            f"the candidate's {what} hold NaN or infinite values",
            "the artifact is broken on this machine: convert again, or try another scheme",
        )


def _blocks(windows: int, tokens: int) -> np.ndarray:
    """The block of each prediction, (windows * (tokens - 1),); none reaches over two windows."""
    blocks = np.arange(tokens - 1) // BLOCK
    return (np.arange(windows)[:, None] * (blocks[-1] + 1) + blocks).ravel()


def _continue_prompts(
    decoder: Decoder, reference: DecoderReference, progress: Progress
) -> list[list[int]]:
    pairs = list(zip(reference.prompts, reference.continuations, strict=True))
    return [
        list(decoder.generate(prompt, len(expected)))
        for prompt, expected in track(pairs, progress, "continuing", "prompts")
    ]


def _padded(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    padded = np.full((len(rows), length), -1, np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _estimates(metrics: Mapping[str, Mapping]) -> dict[str, Estimate]:
    return {name: Estimate(**fields) for name, fields in metrics.items()}


def _decoder_protocol(reference: DecoderReference, reading: Reading) -> dict:
    windows, tokens = reference.windows.shape
    return {
        "corpus": reading.text.name,
        "origin": reading.text.origin,
        "sha256": reading.text.sha256,
        "half": "second",
        "windows": windows,
        "window": tokens,
        "stride": tokens,
        "opening": list(reading.opening),  # tokens that the tokenizer puts before each window
        "tokens_scored": windows * (tokens - 1),
        "prompts": len(reference.prompts),
        "reference": reference.judge,
        "tokenizer": reading.judge,
        "interval": f"{CONFIDENCE:.0%} percentile bootstrap, {RESAMPLES} resamples of blocks "
        f"of {BLOCK} tokens or of prompts",
    }


def _embedder_protocol(texts: int, judge: str, pairs: Pairs | None) -> dict:
    detail = {"texts": texts, "reference": judge}
    detail["interval"] = f"{CONFIDENCE:.0%} percentile bootstrap, {RESAMPLES} resamples"
    if pairs is not None:
        detail |= {"corpus": pairs.name, "origin": pairs.origin, "sha256": pairs.sha256}
        detail |= {"split": pairs.split, "pairs": len(pairs.left)}
    return detail
