"""Quantize a decoder's layers one after another, each for the inputs that it will really see.

The inputs of a layer come from calibration text that has passed through the layers before it,
already quantized, so that a layer also corrects for those. What is done is kept in the cache
layer by layer: a run that was cut off goes on where it stopped, and the second artifact from
the same inputs costs only the reading.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
from tqdm import tqdm

from llmkg_lab import cache, texts
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.quantize.blockwise import Quantized, round_to_nearest
from llmkg_lab.quantize.equivalent import equalized
from llmkg_lab.quantize.gptq import DAMPING, gptq
from llmkg_lab.quantize.scheme import Layout, Scheme, SchemeError
from llmkg_lab.texts import Text

if TYPE_CHECKING:
    import torch

METHOD = 1  # counted up when the same inputs would give other codes: cached layers are then void

CORPORA = ("wikitext2", "lee_background")  # the first that is here
WINDOW = 512  # tokens
TOKENS = 8 * WINDOW  # twice as many as the widest matrix of a small model has columns

Progress = Callable[[int, int, str], None]  # layers done, in all, what
Solved = dict[str, Quantized]  # by the checkpoint's name of the matrix


def prepare(
    checkpoint: Checkpoint, scheme: Scheme, task: str, text: Text | None = None
) -> tuple[Checkpoint, Solved, dict]:
    """What a scheme with a method stores: the checkpoint to read, its solved matrices, a record.

    The checkpoint is the given one with its channels equalized, an encoder's with corrected
    biases. The record says what the matrices were solved on. Progress goes to standard output.
    Raises SchemeError for what is neither Llama nor BERT, TextError without a text that is long
    enough.
    """
    model_type = checkpoint.config.get("model_type")
    if model_type == "bert" and scheme.method == "gptq":
        from llmkg_lab.quantize import encoder  # torch: seconds that a plain scheme need not wait

        return encoder.prepare(checkpoint, scheme, text)
    has_biases = any(name.endswith(".bias") for name in checkpoint.tensors)
    if task != "text-generation" or model_type != "llama" or has_biases:
        raise SchemeError(
            f"{scheme.name}: {checkpoint.path} is no decoder of the Llama form without biases",
            f"use {replace(scheme, method='rtn').name}",
        )
    even = equalized(checkpoint)
    if scheme.method == "eq":
        return even, {}, {"method": scheme.method}
    text = text or texts.load(CORPORA)
    tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.sidecars()["tokenizer.json"])
    ids = tokenizer.encode(text.calibration, add_special_tokens=False).ids
    window = min(WINDOW, checkpoint.config["max_position_embeddings"])
    windows = texts.windows(ids, window, TOKENS)
    with tqdm(desc=f"{scheme.name}, calibration", unit="layer", file=sys.stdout) as bar:

        def show(done: int, total: int, _: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        solved = calibrate(even, scheme, windows, show)
    record = {
        "method": scheme.method,
        "damping": DAMPING,
        "corpus": text.name,
        "sha256": text.sha256,
        "half": "first",
        "tokens": windows.size,
        "window": window,
    }
    return even, solved, record


def calibrate(
    checkpoint: Checkpoint,
    scheme: Scheme,
    windows: np.ndarray,
    progress: Progress = lambda done, total, what: None,
) -> Solved:
    """Solve all linear layers of a decoder by GPTQ.

    windows: token ids of calibration text, (n, tokens) int64.
    Needs torch and transformers where the cache lacks a layer.
    """
    layout, solved = scheme.linear(), {}
    walk = _Walk(checkpoint, scheme, windows, solved)
    total = checkpoint.config["num_hidden_layers"]
    key = {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "scheme": asdict(scheme),
        "damping": DAMPING,
        "windows": [*windows.shape, hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()],
        "versions": {name: version(name) for name in ("numpy", "torch", "transformers")},
    }
    for i in range(total):
        progress(i, total, f"calibrating layer {i}")
        stored = cache.arrays("calibrated", {**key, "layer": i}, lambda i=i: _arrays(walk.solve(i)))
        solved.update(_from_arrays(stored, layout))
    progress(total, total, "calibrated")
    return solved


class _Walk:
    """Calibration text on its way through the model; the model is loaded when it is needed."""

    def __init__(
        self, checkpoint: Checkpoint, scheme: Scheme, windows: np.ndarray, solved: Solved
    ) -> None:
        self._checkpoint = checkpoint
        self._scheme = scheme
        self._windows = windows
        self._solved = solved  # filled by the caller, layer by layer
        self._position = 0  # the layer whose inputs ``_states`` are

    def solve(self, i: int) -> Solved:
        """Quantize the matrices of layer ``i``, by checkpoint name."""
        while self._position < i:
            self._pass(self._position)
            self._position += 1
        layout, prefix = self._scheme.linear(), self._prefix(i)
        hessians = self._hessians(i)
        return {
            f"{prefix}.{name}.weight": gptq(linear.weight.numpy(), hessians[name], layout)
            for name, linear in _linears(self._layers[i])
        }

    @cached_property
    def _model(self) -> "torch.nn.Module":
        from llmkg_lab.reference import load_model

        return load_model(self._checkpoint).requires_grad_(False)

    @cached_property
    def _layers(self) -> "torch.nn.ModuleList":
        return self._model.base_model.layers

    @cached_property
    def _states(self) -> "torch.Tensor":
        """The residual stream before layer ``_position``, (windows, tokens, hidden) float32."""
        import torch

        table = self._model.get_input_embeddings().weight
        tied = bool(self._checkpoint.config.get("tie_word_embeddings", False))
        if layout := self._scheme.table(is_head=tied):
            stored = torch.from_numpy(round_to_nearest(table.numpy(), layout).dequantize())
        else:
            stored = table
        return stored[torch.from_numpy(self._windows)]

    @cached_property
    def _context(self) -> dict:
        """What every layer takes besides its input: rotary positions and the causal mask."""
        import torch

        tokens = self._windows.shape[1]
        positions = torch.arange(tokens)[None]
        mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)
        rotary = self._model.base_model.rotary_emb(self._states[:1], positions)
        return {"attention_mask": mask[None, None], "position_embeddings": rotary}

    def _run(self, i: int) -> Iterator[tuple[int, "torch.Tensor"]]:
        """Layer ``i`` on each window: (window, output (1, tokens, hidden))."""
        import torch

        for window in range(len(self._windows)):
            with torch.inference_mode():
                yield window, self._layers[i](self._states[window : window + 1], **self._context)

    def _pass(self, i: int) -> None:
        """Layer ``i`` takes its quantized weights, and the text goes through it."""
        import torch

        for name, linear in _linears(self._layers[i]):
            stored = self._solved[f"{self._prefix(i)}.{name}.weight"]
            linear.weight.copy_(torch.from_numpy(stored.dequantize()))
        for window, output in self._run(i):
            self._states[window] = output[0]

    def _hessians(self, i: int) -> dict[str, np.ndarray]:
        """Σ x xᵀ of each linear layer's inputs, (columns, columns) float32, by name."""
        sums: dict[str, torch.Tensor] = {}
        owners: dict[str, str] = {}  # matrices that read the same input share its Hessian
        latest: tuple[str, torch.Tensor] | None = None

        def observe(name: str) -> Callable:
            def hook(_: "torch.nn.Module", inputs: tuple) -> None:
                nonlocal latest
                if latest is None or latest[1] is not inputs[0]:
                    x = inputs[0].flatten(0, -2)  # (tokens, columns)
                    sums[name] = sums[name].addmm_(x.T, x) if name in sums else x.T @ x
                    latest = name, inputs[0]
                owners[name] = latest[0]

            return hook

        hooks = [
            linear.register_forward_pre_hook(observe(name))
            for name, linear in _linears(self._layers[i])
        ]
        for _ in self._run(i):
            pass
        for hook in hooks:
            hook.remove()
        return {name: sums[owner].numpy() for name, owner in owners.items()}

    def _prefix(self, i: int) -> str:
        return f"{self._model.base_model_prefix}.layers.{i}"


def _linears(layer: "torch.nn.Module") -> Iterator[tuple[str, "torch.nn.Linear"]]:
    import torch

    for name, module in layer.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module


def _arrays(solved: Solved) -> cache.Arrays:
    return {
        f"{name}:{part}": values
        for name, q in solved.items()
        for part, values in {
            "codes": q.codes,
            "scales": q.scales,
            "zero_points": q.zero_points,
            "columns": np.array(q.columns),
            "squared_error": np.array(q.squared_error),
        }.items()
        if values is not None
    }


def _from_arrays(arrays: cache.Arrays, layout: Layout) -> Solved:
    return {
        name: Quantized(
            arrays[f"{name}:codes"],
            arrays[f"{name}:scales"],
            arrays.get(f"{name}:zero_points"),
            layout,
            int(arrays[f"{name}:columns"]),
            float(arrays[f"{name}:squared_error"]),
        )
        for name in dict.fromkeys(key.rpartition(":")[0] for key in arrays)
    }
