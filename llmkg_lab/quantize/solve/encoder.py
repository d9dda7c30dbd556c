"""Calibrated weights for BERT encoders: GPTQ layer by layer, and biases that take up the rest.

Each matrix is solved for the inputs it will really get, those of the quantized layers below
it, in three steps that cost neither a byte nor an operator:

1. The goal is the original's output. The matrix first moves towards the one that reaches it
   from the disturbed inputs, by least squares (as in GPTAQ, Li et al., 2025, arXiv:2504.02692).
   Where the output is added to a residual, it makes up for the residual's error too.
2. The codes: GPTQ, on the covariance of the inputs and not on their raw second moments, for
   what their mean adds to every output is the bias's to take up.
3. The bias takes up the mean of the error (Nagel et al., 2019, arXiv:1906.04721).
"""

import copy
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, zip_longest

import numpy as np
import tokenizers
import torch
from torch import Tensor, nn

from llmkg_lab.base.progress import Progress, silent, track
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.checkpoint.views import Revised
from llmkg_lab.data import texts
from llmkg_lab.data.texts import Text
from llmkg_lab.models.bert import BertForm
from llmkg_lab.quantize.blocks.rounding import Quantized, round_to_nearest
from llmkg_lab.quantize.solve.gptq import DAMPING, gptq
from llmkg_lab.reference.filled import load_model
from llmkg_lab.scheme import Layout, Scheme, integer_layout

SENTENCES = {"quick": 200, "normal": 800, "high": 1600}  # by effort
WORDS = range(5, 61)  # of a sentence: what is shorter is a heading, what is longer a table
TOKENIZED = re.compile(r"<unk>|@.@")  # in a corpus of tokens: what no sentence has
BATCH = 32  # sentences
RIDGE = 0.2  # of the mean variance of the inputs: how strongly step 1 holds on to the weights

Inputs = dict[str, Tensor]  # module -> what went into it, (tokens, columns)


@dataclass
class Calibration:
    """What calibration found, by checkpoint name: codes for matrices, new values for biases."""

    matrices: dict[str, Quantized] = field(default_factory=dict)
    biases: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Batch:
    """Sentences on their way through the layers, in the original and in the quantized model."""

    mask: Tensor  # bool (sentences, tokens)
    original: Tensor  # (sentences, tokens, hidden)
    quantized: Tensor


def prepare(
    checkpoint: Checkpoint,
    scheme: Scheme,
    corpora: Sequence[Text],
    effort: str,
    progress: Progress,
) -> tuple[Checkpoint, dict[str, Quantized], dict]:
    """What a calibrated scheme stores of a BERT: see prepare.prepare, which calls this.

    corpora: of several kinds, whose sentences are read by turns.
    """
    sentences = by_turns([sentences_of(text.calibration) for text in corpora], SENTENCES[effort])
    tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.sidecars()["tokenizer.json"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(checkpoint.form.positions)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(sentences)]
    found = calibrate(checkpoint, scheme, ids, progress)
    record = {
        "method": scheme.method,
        "damping": DAMPING,
        "corpus": ", ".join(text.name for text in corpora),
        "sha256": _sha256(corpora),
        "half": "first",
        "sentences": len(ids),
        "tokens": sum(map(len, ids)),
        "effort": effort,
    }
    return Revised(checkpoint, found.biases), found.matrices, record


def _sha256(corpora: Sequence[Text]) -> str:
    """A corpus's own, of several the hash of theirs."""
    if len(corpora) == 1:
        return corpora[0].sha256
    return hashlib.sha256("".join(text.sha256 for text in corpora).encode()).hexdigest()


def sentences_of(text: str) -> list[str]:
    """The sentences of running text, each once, in order. Raises TextError where there is none."""
    pieces = (piece.strip() for piece in re.split(r"(?<=[.!?]) +|\n", text))
    found = [
        piece
        for piece in dict.fromkeys(pieces)
        if len(piece.split()) in WORDS and not TOKENIZED.search(piece)
    ]
    if not found:
        raise texts.TextError("the calibration text has no sentence", "give it plain prose")
    return found


def by_turns(kinds: Sequence[Sequence[str]], count: int) -> list[str]:
    """So many sentences, one of each kind after another; the longer kinds fill up the rest."""
    turns = (sentence for turn in zip_longest(*kinds) for sentence in turn)
    return list(islice((sentence for sentence in turns if sentence is not None), count))


def calibrate(
    checkpoint: Checkpoint,
    scheme: Scheme,
    sentences: Sequence[Sequence[int]],
    progress: Progress = silent,
) -> Calibration:
    """Solve all matrices of a BERT's layers for what ``sentences`` (token ids) send through them.

    The embedding table stays rounded to nearest, as the scheme says: it is a gather, of which
    each row is read alone, so that there are no inputs to solve it for.
    """
    model, form = load_model(checkpoint), checkpoint.form
    assert isinstance(form, BertForm)
    table, layout = integer_layout(scheme.table(is_head=False)), integer_layout(scheme.linear())
    found, layers = Calibration(), model.encoder.layer
    with torch.inference_mode():
        batches = list(_embed(model, table, sentences))
        for i, layer in enumerate(track(layers, progress, "calibration", "layers")):
            _solve_layer(layer, batches, layout, form.layer(i), found)
    return found


def _embed(model: nn.Module, table: Layout, sentences: Sequence[Sequence[int]]) -> Iterator[Batch]:
    quantized = copy.deepcopy(model.embeddings)
    words = quantized.word_embeddings.weight
    words.data = torch.from_numpy(round_to_nearest(words.numpy(force=True), table).dequantize())
    order = sorted(sentences, key=len)  # little padding in a batch
    for start in range(0, len(order), BATCH):
        rows = [torch.tensor(row) for row in order[start : start + BATCH]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        yield Batch(mask, model.embeddings(input_ids=ids), quantized(input_ids=ids))


def _solve_layer(
    layer: nn.Module, batches: Sequence[Batch], layout: Layout, name: str, found: Calibration
) -> None:
    """Solve a layer's matrices in the order of their use, and move ``batches`` behind it."""
    with _recorded(layer) as wanted:
        for batch in batches:
            batch.original = _run(layer, batch.original, batch.mask)
    goals = {module: layer.get_submodule(module)(x) for module, x in wanted.items()}
    for group in BertForm.groups:
        with _recorded(layer) as inputs:
            for batch in batches:
                _run(layer, batch.quantized, batch.mask)
        for module in group:
            goal = goals[module]  # (tokens, rows)
            if residual := BertForm.residuals.get(module):
                goal += wanted[residual] - inputs[residual]
            linear = layer.get_submodule(module)
            quantized = _solve(linear, inputs[module], goal, layout)
            found.matrices[f"{name}.{module}.weight"] = quantized
            found.biases[f"{name}.{module}.bias"] = linear.bias.numpy()
    for batch in batches:
        batch.quantized = _run(layer, batch.quantized, batch.mask)


def _solve(linear: nn.Linear, x: Tensor, goal: Tensor, layout: Layout) -> Quantized:
    """Quantize ``linear`` in place, so that it takes x (tokens, columns) to goal (tokens, rows)."""
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    missing = centred.T @ (goal - linear(x))  # (columns, rows)
    weight = linear.weight + torch.linalg.solve(covariance + ridge, missing).T
    quantized = gptq(weight.numpy(), covariance.numpy(), layout, rounds=0)  # more was not tried
    linear.weight.data = torch.from_numpy(quantized.dequantize())
    linear.bias.data = goal.mean(0) - linear.weight @ mean
    return quantized


def _run(layer: nn.Module, states: Tensor, mask: Tensor) -> Tensor:
    hidden = torch.where(mask, 0.0, torch.finfo(states.dtype).min)[:, None, None, :]
    layer.calibration_mask = mask  # the hooks drop what comes of padding
    return layer(hidden_states=states, attention_mask=hidden)


@contextmanager
def _recorded(layer: nn.Module) -> Iterator[Inputs]:
    """Collect what goes into each matrix of ``layer``; there when the block ends."""
    found: dict[str, list[Tensor]] = {}
    inputs: Inputs = {}

    def record(name: str) -> Callable:
        return lambda module, args: found.setdefault(name, []).append(
            args[0][layer.calibration_mask]
        )

    hooks = [
        layer.get_submodule(name).register_forward_pre_hook(record(name))
        for group in BertForm.groups
        for name in group
    ]
    yield inputs
    for hook in hooks:
        hook.remove()
    inputs |= {name: torch.cat(parts) for name, parts in found.items()}
