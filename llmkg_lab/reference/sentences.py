"""Encoders as sentence-transformers opens them, which judges embeddings and scores.

It chooses tokenizer, prompts, lengths, pooling and normalization. Where it has no code for a
checkpoint, ``filled`` takes its place; see ``load``.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import Pooling

from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.reference import filled, load
from llmkg_lab.reference.tokens import Tokens

DEFAULT_POOLING = {"mode": "mean", "normalize": True}  # of an encoder that says nothing of it
PACKAGES = ("sentence-transformers", "transformers")

T = TypeVar("T")
Embed = Callable[[Sequence[str]], tuple[list[Tokens], np.ndarray]]  # (texts, hidden) float32
Score = Callable[[tuple[str, str]], tuple[Tokens, float]]  # a pair -> its logit


def embedder(checkpoint: Checkpoint) -> tuple[Embed, str]:
    """Return what embeds a batch of texts, and its name.

    Raises CheckpointError or UnsupportedError where it cannot be opened.
    """
    if reason := load.unread(checkpoint):
        return _filled_embedder(checkpoint), load.filled_name(checkpoint, reason)
    model = _opened(sentence_transformers.SentenceTransformer, checkpoint)
    pools = (checkpoint.path / "modules.json").exists()
    if not any(isinstance(module, Pooling) for module in model):
        model.append(Pooling(model.get_embedding_dimension(), DEFAULT_POOLING["mode"]))
        pools = False

    def embed(texts: Sequence[str]) -> tuple[list[Tokens], np.ndarray]:
        found = model.encode(
            list(texts), batch_size=len(texts), output_value=None, show_progress_bar=False
        )
        vectors = torch.stack([text["sentence_embedding"] for text in found])
        if not pools:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return [_tokens(text) for text in found], vectors.numpy()

    return embed, load.name(type(model), checkpoint, *PACKAGES)


def ranker(checkpoint: Checkpoint) -> tuple[Score, str]:
    """Return what scores a pair of query and passage by one logit, and its name.

    Raises CheckpointError where it cannot be opened.
    """
    if reason := load.unread(checkpoint):
        raise CheckpointError(f"{checkpoint.path}: nothing judges its scores, for {reason}")

    class CrossEncoder(sentence_transformers.CrossEncoder):
        """One that remembers what it read last."""

        def preprocess(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            self.last_read = super().preprocess(*arguments, **options)
            return self.last_read

    model, logits = _opened(CrossEncoder, checkpoint), torch.nn.Identity()

    def score(pair: tuple[str, str]) -> tuple[Tokens, float]:
        value = model.predict([pair], activation_fn=logits, show_progress_bar=False).item()
        only = {key: part[0] for key, part in model.last_read.items() if torch.is_tensor(part)}
        return _tokens(only), value

    return score, load.name(CrossEncoder, checkpoint, *PACKAGES)


def _opened(kind: Callable[..., T], checkpoint: Checkpoint) -> T:
    place, options = str(checkpoint.path), {"device": "cpu", "model_kwargs": load.MODEL}
    return load.opened(checkpoint.path, lambda: kind(place, **options, **load.OFFLINE))


def _tokens(row: dict[str, torch.Tensor]) -> Tokens:
    """What a text or a pair was read as, from its row of a batch."""
    is_read = row["attention_mask"].bool()
    types = row.get("token_type_ids", torch.zeros_like(row["input_ids"]))
    return Tokens(row["input_ids"][is_read].tolist(), types[is_read].tolist())


# An embedder that no tool opens


def _filled_embedder(checkpoint: Checkpoint) -> Embed:
    model, core = filled.load_model(checkpoint), load.own_tokenizer(checkpoint)
    pooling: dict[str, Any] = checkpoint.pooling or DEFAULT_POOLING
    core.enable_truncation(pooling.get("max_length") or checkpoint.form.positions)

    def embed(texts: Sequence[str]) -> tuple[list[Tokens], np.ndarray]:
        encodings = core.encode_batch(list(texts))
        tokens = [Tokens(encoding.ids, encoding.type_ids) for encoding in encodings]
        return tokens, _pooled(model, [text.ids for text in tokens], pooling)

    return embed


@torch.inference_mode()
def _pooled(
    model: transformers.PreTrainedModel, ids: list[list[int]], pooling: dict[str, Any]
) -> np.ndarray:
    """Token ids of a batch of texts -> (batch, hidden) float32."""
    rows = [torch.tensor(row) for row in ids]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (batch, tokens)
    mask = torch.arange(padded.shape[1]) < torch.tensor([[len(row)] for row in ids])
    states = model(input_ids=padded, attention_mask=mask).last_hidden_state
    weights = mask[:, :, None].float()  # (batch, tokens, 1)
    mean = (states * weights).sum(1) / weights.sum(1)
    pooled = states[:, 0] if pooling["mode"] == "cls" else mean  # (batch, hidden)
    if pooling["normalize"]:
        pooled = torch.nn.functional.normalize(pooled, dim=1)
    return pooled.numpy()
