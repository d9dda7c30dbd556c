"""A Llama walked layer by layer, so that no more than one layer's activations are in memory."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.quantize.solve.device import CPU
from llmkg_lab.reference.filled import load_model


class Passed(NamedTuple):
    """What went through a matrix: its inputs (…, columns), and the gradient at its outputs."""

    inputs: Tensor
    gradient: Tensor


class LayerwiseLlama:
    """The model in float32, its layers apart; the weights may be replaced as it goes."""

    def __init__(self, checkpoint: Checkpoint, device: str = CPU) -> None:
        """device: where the weights lie, and what goes through them."""
        self.device = device
        self.model = load_model(checkpoint).requires_grad_(False).to(device)
        self.model.config._attn_implementation = "sdpa"  # causal where no mask is given
        self.layers: nn.ModuleList = self.model.base_model.layers
        self.norm: nn.Module = self.model.base_model.norm
        self.head: nn.Linear = self.model.lm_head
        self._rotary: dict[int, tuple[Tensor, Tensor]] = {}  # by the number of tokens

    @cached_property
    def table(self) -> Tensor:
        """The embedding table, (vocab, hidden)."""
        return self.model.get_input_embeddings().weight

    def embed(self, windows: np.ndarray, table: np.ndarray | None = None) -> Tensor:
        """Token ids (windows, tokens) -> (windows, tokens, hidden); ``table`` replaces the own."""
        ids = torch.from_numpy(windows)
        if table is None:
            return self.table[ids.to(self.device)]
        return torch.from_numpy(table)[ids].to(self.device)

    def run(self, i: int, states: Tensor) -> Tensor:
        """Layer ``i`` on (windows, tokens, hidden)."""
        return self.layers[i](states, position_embeddings=self._positions(states))

    def attend(self, layer: nn.Module, x: Tensor) -> Tensor:
        """What goes into the output projection of a layer, the model's own or a copy of one.

        x: normed, (windows, tokens, hidden).
        """
        attention = layer.self_attn
        projection, attention.o_proj = attention.o_proj, nn.Identity()
        try:
            positions = self._positions(x)
            found = attention(x, attention_mask=None, position_embeddings=positions)
        finally:
            attention.o_proj = projection
        attended: Tensor = found[0]
        return attended

    @staticmethod
    def gate(layer: nn.Module, x: Tensor) -> Tensor:
        """What goes into the layer's ``down_proj``; arguments as for ``attend``."""
        mlp = layer.mlp
        gated: Tensor = mlp.act_fn(mlp.gate_proj(x)).mul_(mlp.up_proj(x))
        return gated

    @staticmethod
    def linear(layer: nn.Module, name: str) -> nn.Linear:
        """A matrix of a layer by the checkpoint's name of its weight."""
        found: nn.Linear = layer.get_submodule(".".join(name.split(".")[3:-1]))
        return found

    def logits(self, states: Tensor) -> Tensor:
        """What the last layer gives, (…, hidden) -> (…, vocab)."""
        return self.head(self.norm(states))

    def linears(self, i: int) -> Iterator[tuple[str, nn.Linear]]:
        """The matrices of layer ``i`` by the checkpoint's names of their weights."""
        for name, module in self.layers[i].named_modules():
            if isinstance(module, nn.Linear):
                yield f"model.layers.{i}.{name}.weight", module

    def observe(self, i: int, states: Tensor) -> tuple[dict[str, np.ndarray], Tensor]:
        """Run layer ``i`` window by window, and sum x xᵀ of what goes into each of its matrices.

        Returns Hessians (columns, columns) float32 by tensor name, those of matrices that read the
        same being one array, and the layer's output.
        """
        sums: dict[str, Tensor] = {}
        owners: dict[str, str] = {}
        latest: tuple[str, Tensor] | None = None

        def hook_of(name: str) -> Callable:
            def hook(_: nn.Module, inputs: tuple) -> None:
                nonlocal latest
                if latest is None or latest[1] is not inputs[0]:
                    x = inputs[0].flatten(0, -2)  # (tokens, columns)
                    sums[name] = sums[name].addmm_(x.T, x) if name in sums else x.T @ x
                    latest = name, inputs[0]
                owners[name] = latest[0]

            return hook

        hooks = [
            linear.register_forward_pre_hook(hook_of(name)) for name, linear in self.linears(i)
        ]
        with torch.no_grad():
            output = torch.cat([self.run(i, window) for window in states.split(1)])
        for hook in hooks:
            hook.remove()
        hessians = {name: total.numpy() for name, total in sums.items()}
        return {name: hessians[owner] for name, owner in owners.items()}, output

    def back(self, i: int, states: Tensor, gradient: Tensor) -> tuple[Tensor, dict[str, Passed]]:
        """Move a gradient before layer ``i``; also what passed its matrices, by tensor name.

        states: what goes into the layer, (windows, tokens, hidden); gradient: at what it gives.
        """
        layer = self.layers[i]
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}

        def hook_of(name: str) -> Callable:
            def hook(_: nn.Module, args: tuple, output: Tensor) -> None:
                inputs[name], outputs[name] = args[0].detach(), output

            return hook

        hooks = [linear.register_forward_hook(hook_of(name)) for name, linear in self.linears(i)]
        with torch.enable_grad():
            x = states.clone().requires_grad_()
            stream = x + layer.self_attn.o_proj(self.attend(layer, layer.input_layernorm(x)))
            gated = self.gate(layer, layer.post_attention_layernorm(stream))
        for hook in hooks:
            hook.remove()
        # What the last matrix gives need not be known: the gradient there is the one handed in
        behind = gradient.clone()
        gradients = [behind, behind @ layer.mlp.down_proj.weight]
        before, *found = torch.autograd.grad([stream, gated], [x, *outputs.values()], gradients)
        passed = {name: Passed(inputs[name], own) for name, own in zip(outputs, found, strict=True)}
        passed[f"model.layers.{i}.mlp.down_proj.weight"] = Passed(gated.detach(), behind)
        return before, passed

    def norms(self, i: int | None = None) -> Iterator[tuple[str, nn.Module]]:
        """The norms of layer ``i``, or all, by the checkpoint's names of their gains."""
        for layer in range(len(self.layers)) if i is None else (i,):
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"model.layers.{layer}.{name}.weight", getattr(self.layers[layer], name)
        if i is None:
            yield "model.norm.weight", self.norm

    def _positions(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What turns queries and keys, for states (windows, tokens, hidden)."""
        tokens = states.shape[1]
        if tokens not in self._rotary:
            places = torch.arange(tokens, device=self.device)[None]
            self._rotary[tokens] = self.model.base_model.rotary_emb(states[:1], places)
        return self._rotary[tokens]
