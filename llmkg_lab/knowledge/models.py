"""What of language models the knowledge graph uses, over any backend of the runtime."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from llmkg_lab.knowledge.facts import KnowledgeError
from llmkg_lab.knowledge.memory import CountTokens, Surprise
from llmkg_lab.knowledge.vectors import Embedder

if TYPE_CHECKING:  # what opens no model need not wait for a runtime
    from llmkg_lab.runtime.backend import CachedBackend

READ_AT_ONCE = 512  # tokens of a text whose surprise is measured


@dataclass(frozen=True)
class Models:
    """The models of a graph, each of which may be missing.

    Args:
        embedder: makes search by meaning possible.
        surprise: the nats of each token of a text, for importance.
        count_tokens: how much of a budget a text takes.
    """

    embedder: Embedder | None = None
    surprise: Surprise | None = None
    count_tokens: CountTokens | None = None


@runtime_checkable
class Scoring(Protocol):
    """A decoder that gives the logits of a whole sequence at once."""

    def logits(self, input_ids: np.ndarray) -> np.ndarray:
        """Logits (batch, sequence, vocab) float32."""


def surprise_by(backend: "Callable[[], CachedBackend]") -> Surprise:
    """The surprise of a text model, which is opened when it is first asked.

    Returns a function from a text to the negative log-likelihood of its tokens but the first,
    (tokens - 1,) float32 in nats; of a long text its beginning.
    """

    def surprise(text: str) -> np.ndarray:
        model = backend()
        decoder = getattr(model, "active", model).decoder()
        if not isinstance(decoder, Scoring):
            raise KnowledgeError(
                f"{model.folder} gives no likelihoods", "open an ONNX artifact that generates"
            )
        ids = np.asarray(model.tokenizer.encode(text), np.int64)[:READ_AT_ONCE]
        if len(ids) < 2:
            return np.zeros(0, np.float32)
        with model.lock:
            logits = decoder.logits(ids[None])[0, :-1]  # (tokens - 1, vocab)
        top = logits.max(axis=1)
        normal = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        said: np.ndarray = normal - logits[np.arange(len(logits)), ids[1:]]
        return said

    return surprise
