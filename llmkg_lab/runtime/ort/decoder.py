"""Artifacts on plain ONNX Runtime: a decoder with an in-place KV cache, and an embedder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint.pooling import longest
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.encoder import BATCH_TOKENS, Batch, EncoderSessions, Inputs
from llmkg_lab.runtime.ort.packed import open_artifact
from llmkg_lab.runtime.ort.session import CPU, CachedSession, running
from llmkg_lab.runtime.sequence import SequenceDecoder, TokenIds, check_tokens
from llmkg_lab.runtime.text.tokenizer import Tokenizer

PREFILL_CHUNK = 128  # tokens a run: it bounds the memory of what is in between the layers


class Decoder(SequenceDecoder):
    """A causal language model over one KV cache, one sequence at a time.

    A token copies and allocates nothing (``CachedSession``).

    max_length: tokens that fit the cache, by default the model's context length. The memory
        is taken as it fills.
    reuse_prompts: a prompt's beginning that the cache holds from the last generation is not
        computed again. Off by default, because it makes tokens depend on what ran before: the
        logits are the same but for the order of sums, which int8 activations blow up
        (docs/lab-notes/speed.md).
    profile: as ``open_session`` takes it.
    """

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None = None,
        max_length: int | None = None,
        reuse_prompts: bool = False,
        profile: Path | None = None,
    ) -> None:
        self.artifact = artifact
        self.reuse_prompts = reuse_prompts
        self.session = open_artifact(artifact, threads, profile=profile)
        self._cached = CachedSession(self.session, artifact, 1, PREFILL_CHUNK, max_length)
        self.max_length, self.vocab = self._cached.max_length, self._cached.vocab
        self._tokens = np.empty(self.max_length, np.int64)  # what the cache holds
        self._lengths = np.zeros(1, np.int64)  # and how much of it

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return int(self._lengths[0])

    def reset(self) -> None:
        """Forget the sequence; the buffers stay."""
        self._lengths[0] = 0

    def reuse(self, ids: TokenIds) -> int:
        """Forget all but what the cache shares with the beginning of ``ids``; return its length."""
        wanted = np.asarray(ids, np.int64)[: self.length]
        differs = np.flatnonzero(wanted != self._tokens[: len(wanted)])
        shared = int(differs[0]) if len(differs) else len(wanted)
        self._lengths[0] = shared
        return shared

    def prefill(self, ids: TokenIds) -> np.ndarray:
        """Append several tokens; return the logits after the last, (vocab,) float32.

        The result is a view that the next call overwrites. Raises InferenceError on no tokens,
        a token outside the vocabulary, or more tokens than the cache has room for.
        """
        checked = np.asarray(ids, np.int64)
        check_tokens(checked, self.vocab, self.length + len(checked), self.max_length)
        for start in range(0, len(checked), self._cached.chunk):
            part = checked[start : start + self._cached.chunk]
            length = self.length
            logits = self._cached.run(0, part[None], self._lengths)
            self._tokens[length : length + len(part)] = part
            self._lengths += len(part)  # only now: an interrupted run leaves the cache as it was
        return logits[0]

    def start(self, prompt: np.ndarray) -> np.ndarray:
        """Begin a sequence; return what of its ``prompt`` the cache does not hold."""
        # the last token of a prompt is run in any case, for its logits
        self.reuse(prompt[:-1] if self.reuse_prompts else ())
        return prompt[self.length :]

    def logits(self, input_ids: np.ndarray, lengths: Sequence[int] | None = None) -> np.ndarray:
        """Logits at every position of whole sequences, without the cache.

        input_ids: (batch, sequence) int64, padded at the right where ``lengths`` (batch,) says
        that a sequence is shorter. Returns (batch, sequence, vocab) float32; what stands at
        padding means nothing.
        """
        input_ids = np.asarray(input_ids, np.int64)
        batch, sequence = input_ids.shape
        check_tokens(input_ids, self.vocab, sequence, self.artifact.context_length)
        whole = np.full(batch, sequence) if lengths is None else np.asarray(lengths)
        feeds = {
            "input_ids": input_ids,
            "attention_mask": (np.arange(sequence) < whole[:, None]).astype(np.int64),
        }
        for name, (_, heads, _, head_dim) in self._cached.past.items():
            feeds[name] = np.zeros((batch, heads, 0, head_dim), np.float32)
        with running():
            return self.session.run(["logits"], feeds)[0]


class Embedder:
    """Texts to vectors.

    A sentence embedder's graph pools and normalizes; of a plain encoder's hidden states, the
    normalized mean over a text's tokens is taken here.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None, provider: str = CPU) -> None:
        self.artifact = artifact
        self._sessions = EncoderSessions(artifact, threads, provider)
        self.session = self._sessions.session
        outputs = {output.name: output.shape for output in self.session.get_outputs()}
        if "last_hidden_state" not in outputs or "logits" in outputs:
            raise InferenceError(
                f"{artifact.folder} is a {artifact.task} model: it embeds no texts",
                "open an encoder, such as one of the MiniLM family",
            )
        self._pools = "sentence_embedding" in outputs
        self.hidden = outputs["sentence_embedding" if self._pools else "last_hidden_state"][-1]
        self.tokenizer = Tokenizer.from_folder(artifact.folder)
        self.max_length = longest_text(artifact, self.tokenizer)
        self.prompt = prompt_of(artifact)

    def embed(self, texts: Sequence[str], batch_size: int | None = None) -> np.ndarray:
        """Embeddings (texts, hidden) float32, in the order of the texts.

        The model's prompt, where it has one, is put before each text. Tokens beyond
        ``max_length`` are cut off, and a text without tokens is the zero vector. Texts of like
        length share a run, of BATCH_TOKENS or of ``batch_size`` texts at most. Raises
        InferenceError on a token that the model has no embedding of.
        """
        prompted = [self.prompt + text for text in texts]
        batches = self.tokenizer.batches(prompted, self.max_length, BATCH_TOKENS, batch_size)
        return self._embedded(len(texts), batches)

    def embed_ids(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Embeddings (texts, hidden) float32 of texts given as tokens, read as they are.

        Raises InferenceError on a text of more than ``max_length`` tokens, or on a token that the
        model has no embedding of.
        """
        for ids in texts:
            check_tokens(np.asarray(ids), self.artifact.vocab_size, len(ids), self.max_length)
        batches = self.tokenizer.batches_of_ids(texts, BATCH_TOKENS)
        return self._embedded(len(texts), batches)

    def _embedded(self, count: int, batches: Iterable[Batch]) -> np.ndarray:
        embeddings = np.empty((count, self.hidden), np.float32)
        for indices, vectors in self._sessions.each(self._run, batches):
            embeddings[indices] = vectors
        return embeddings

    def inputs(self, texts: Sequence[str]) -> Inputs:
        """What the model reads of the texts, each padded to the longest."""
        return self.tokenizer.encode_batch(texts, self.max_length)

    def _run(self, session: onnxruntime.InferenceSession, inputs: Inputs) -> np.ndarray:
        empty = np.asarray(~inputs["attention_mask"].any(axis=1))  # texts of no tokens, (texts,)
        if empty.all():
            return np.zeros((len(empty), self.hidden), np.float32)
        vectors = self._vectors(session, inputs)
        vectors[empty] = 0
        return vectors

    def _vectors(self, session: onnxruntime.InferenceSession, inputs: Inputs) -> np.ndarray:
        wanted = "sentence_embedding" if self._pools else "last_hidden_state"
        with running():
            states = session.run([wanted], inputs)[
                0
            ]  # (texts, tokens, hidden), pooled (texts, hidden)
        if self._pools:
            return states
        total = np.einsum("tnh,tn->th", states, inputs["attention_mask"].astype(np.float32))
        with np.errstate(invalid="ignore"):  # of no tokens
            return total / np.linalg.norm(total, axis=1, keepdims=True)


def longest_text(artifact: Artifact, tokenizer: Tokenizer) -> int:
    """The tokens that an embedder's text is cut to."""
    pooling = artifact.manifest.pooling
    said = pooling and pooling.max_length
    return said or longest(tokenizer.config, artifact.context_length)


def prompt_of(artifact: Artifact) -> str:
    """What an embedder puts before each text."""
    pooling = artifact.manifest.pooling
    return (pooling and pooling.prompt) or ""
