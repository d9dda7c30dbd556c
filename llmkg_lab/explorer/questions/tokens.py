"""A text of one's own, token by token: how each prediction changed, and what was expected."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from llmkg_lab.base import cache
from llmkg_lab.base.progress import Progress, Step, silent
from llmkg_lab.explorer.questions.session import ExplorerError, Session
from llmkg_lab.measure.protocol import agree, opened
from llmkg_lab.measure.quality import token_statistics
from llmkg_lab.reference.outputs import decoder_reference

MAX_TOKENS = 512  # of a text; the rest is left out
TOP = 3  # most likely tokens shown of each model
METHOD = 1  # counted up when the same inputs would give other arrays


@dataclass(frozen=True)
class TokenScores:
    """Predictions of the n tokens of a text after its first. Losses and divergences in nats."""

    pieces: list[str]  # n + 1: the text, token by token
    kl: np.ndarray  # (n,) KL(reference || candidate)
    nll_reference: np.ndarray  # (n,) -log p of the token that came
    nll_candidate: np.ndarray  # (n,)
    top_reference: list[list[tuple[str, float]]]  # n lists of TOP tokens, probabilities
    top_candidate: list[list[tuple[str, float]]]
    was_cut: bool  # the text had more tokens than MAX_TOKENS


def score(session: Session, scheme: str, text: str, progress: Progress = silent) -> TokenScores:
    """Compare a scheme's artifact with the reference on ``text``, from the cache if it was asked.

    Raises ExplorerError where the text has fewer than two tokens, and TokensDifferError where the
    original's own tokenizer cuts it differently.
    """
    tokens, spans = opened(session.tokenizer, text)
    if len(tokens) < 2:
        raise ExplorerError("the text has no token to predict", "write a few words")
    ids = np.array([tokens[:MAX_TOKENS]], np.int64)  # (1, tokens)
    agree("the text", text, session.tokenizer, session.original)
    artifact = session.artifact(scheme, progress)
    files = artifact.manifest.files
    key = {
        "method": METHOD,
        "model": [files[name].sha256 for name in sorted(files) if name.startswith("onnx/")],
        "reference": session.checkpoint.fingerprint(),
        "ids": hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest(),
        "versions": {name: version(name) for name in ("onnxruntime", "torch", "transformers")},
    }

    def compute() -> cache.Arrays:
        reference = decoder_reference(session.checkpoint, ids, [], 0, progress)
        progress(Step(f"reading with {scheme}"))
        decoder = session.decoder(scheme, progress)
        candidate = decoder.logits(ids)[0, :-1]  # (n, vocab)
        expected = reference.logits(0)[:-1]
        progress(Step("comparing"))
        statistics = token_statistics(expected, candidate, ids[0, 1:])
        return {
            **{name: statistics[name] for name in ("kl", "nll_reference", "nll_candidate")},
            **_top(expected, "reference"),
            **_top(candidate, "candidate"),
        }

    stored = cache.arrays("token-scores", key, compute)
    return TokenScores(
        pieces=_pieces(text, spans[:MAX_TOKENS]),
        kl=stored["kl"],
        nll_reference=stored["nll_reference"],
        nll_candidate=stored["nll_candidate"],
        top_reference=_named(session, stored, "reference"),
        top_candidate=_named(session, stored, "candidate"),
        was_cut=len(tokens) > MAX_TOKENS,
    )


def _top(logits: np.ndarray, model: str) -> cache.Arrays:
    """The most likely tokens of each row of (n, vocab), and their probabilities, (n, TOP)."""
    ids = np.argpartition(logits, -TOP, axis=1)[:, -TOP:]
    top = np.take_along_axis(logits, ids, 1).astype(np.float64)
    order = np.argsort(-top, axis=1, kind="stable")
    highest = logits.max(1, keepdims=True)
    total = np.exp(logits - highest, dtype=np.float64).sum(1, keepdims=True)
    probabilities = np.exp(top - highest) / total
    return {
        f"top_{model}": np.take_along_axis(ids, order, 1),
        f"probability_{model}": np.take_along_axis(probabilities, order, 1),
    }


def _named(session: Session, stored: cache.Arrays, model: str) -> list[list[tuple[str, float]]]:
    decode = session.tokenizer.core.decode  # special tokens too: an end of text may be expected
    return [
        [
            (decode([int(token)], skip_special_tokens=False), float(probability))
            for token, probability in zip(row, chances, strict=True)
        ]
        for row, chances in zip(stored[f"top_{model}"], stored[f"probability_{model}"], strict=True)
    ]


def _pieces(text: str, offsets: list[tuple[int, int]]) -> list[str]:
    """The text between the ends of neighbouring tokens: nothing is shown twice or lost."""
    pieces, shown = [], 0
    for _, end in offsets:
        end = max(end, shown)
        pieces.append(text[shown:end])
        shown = end
    return pieces
