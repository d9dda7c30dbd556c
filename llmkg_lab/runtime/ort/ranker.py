"""A cross-encoder: how well a passage answers a query, read together."""

from collections.abc import Sequence

import numpy as np
import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint.pooling import longest
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.encoder import BATCH_TOKENS, EncoderSessions, Inputs
from llmkg_lab.runtime.ort.session import CPU, running
from llmkg_lab.runtime.text.tokenizer import Tokenizer


class Ranker:
    """Pairs of texts to one score each, a logit: the higher, the better they fit."""

    def __init__(self, artifact: Artifact, threads: int | None = None, provider: str = CPU) -> None:
        self.artifact = artifact
        self._sessions = EncoderSessions(artifact, threads, provider)
        self.session = self._sessions.session
        outputs = {output.name: output.shape for output in self.session.get_outputs()}
        if outputs.get("logits") != ["batch_size", 1]:
            raise InferenceError(
                f"{artifact.folder} is a {artifact.task} model: it gives a pair no single score",
                "convert a checkpoint of BertForSequenceClassification with one label",
            )
        self.tokenizer = Tokenizer.from_folder(artifact.folder)
        self.max_length = longest(self.tokenizer.config, artifact.context_length)

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int | None = None) -> np.ndarray:
        """Scores (pairs,) float32, in the order of the pairs (query, passage).

        The longer of two texts is cut where both do not fit. Pairs of like length share a run,
        of BATCH_TOKENS or of ``batch_size`` pairs at most. Raises InferenceError on a token, or a
        type of tokens, that the model has no embedding of.
        """
        scores = np.empty(len(pairs), np.float32)
        batches = self.tokenizer.batches(pairs, self.max_length, BATCH_TOKENS, batch_size)
        for indices, logits in self._sessions.each(_logits, batches):
            scores[indices] = logits[:, 0]
        return scores

    def inputs(self, pairs: Sequence[tuple[str, str]]) -> Inputs:
        """What the model reads of the pairs, each padded to the longest."""
        return self.tokenizer.encode_batch(pairs, self.max_length)


def _logits(session: onnxruntime.InferenceSession, inputs: Inputs) -> np.ndarray:
    with running():
        return session.run(["logits"], inputs)[0]  # (pairs, 1)
