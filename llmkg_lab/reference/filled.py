"""A checkpoint in PyTorch, in float32, filled tensor by tensor through this project's own reader.

It is what the solvers walk, whose checkpoints are often views of another. It does not judge an
artifact: a fault of the reader would be in both. ``reference.load`` opens the original with the
field's own tools, and comes here only where there are none. Code that comes with a checkpoint is
never run.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import transformers
from torch import nn
from transformers.initialization import no_init_weights

from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.models.openelm import OpenELMForm
from llmkg_lab.reference.openelm import OpenELM

Model: TypeAlias = transformers.PreTrainedModel | OpenELM
Read = Callable[[str], np.ndarray]  # a tensor by name, float32


def load_model(checkpoint: Checkpoint, read: Read | None = None) -> Model:
    """Build the model that config.json describes, an encoder without a head, and fill it.

    read: gives the tensors, by default ``checkpoint.read``.
    Every parameter must have its tensor, and every tensor a place or a known reason to have
    none. Raises CheckpointError or UnsupportedError, which names the tensor.
    """
    read = read or checkpoint.read
    # On the CPU and never on the meta device: buffers that no checkpoint holds, as the rotary
    # frequencies, are computed by the constructors, and would stay empty there.
    model = _empty(checkpoint, "cpu")
    tensors = _match(model, checkpoint)
    for name, parameter in model.named_parameters():
        parameter.detach().numpy()[...] = read(tensors[name])
    return model.eval()


def load_by_layer(checkpoint: Checkpoint, read: Read | None = None) -> Model:
    """Return a decoder that holds the weights of one layer at a time, and its tables.

    Each layer is filled when the computation comes to it and emptied behind it: memory for
    the widest layer suffices, and each pass reads the checkpoint once. Arguments and errors are
    those of ``load_model``.
    """
    read = read or checkpoint.read
    model = _empty(checkpoint, "meta")
    tensors = _match(model, checkpoint)
    path, layers = next(
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    )

    def fill(module: nn.Module, prefix: str) -> None:
        module.to_empty(device="cpu")
        for name, parameter in module.named_parameters():
            parameter.detach().numpy()[...] = read(tensors[f"{prefix}.{name}"])

    def leave(layer: nn.Module, *_: object) -> None:
        layer.to("meta")

    for name, module in model.named_modules():
        own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)]
        if own and own[0] in tensors and not name.startswith(f"{path}."):
            fill(module, name)
    for i, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda layer, _, i=i: fill(layer, f"{path}.{i}"))
        layer.register_forward_hook(leave)
    if not isinstance(model, OpenELM):
        model.tie_weights()  # the table is another one now
        rotary = type(model.base_model.rotary_emb)
        model.base_model.rotary_emb = rotary(model.config)  # its frequencies were left out on meta
    return model.eval()


def _empty(checkpoint: Checkpoint, device: str) -> Model:
    form = checkpoint.form  # refuses what transformers may know and this project does not
    if isinstance(form, OpenELMForm):
        with torch.device("meta"):
            model = OpenELM(form)
        return model if device == "meta" else model.to_empty(device=device)
    config = transformers.CONFIG_MAPPING[form.model_type].from_dict(checkpoint.config)
    settings = {"attn_implementation": "eager", "dtype": torch.float32, "trust_remote_code": False}
    with torch.device(device), no_init_weights():
        if form.generates:
            model = transformers.AutoModelForCausalLM.from_config(config, **settings)
        else:  # embeddings pool hidden states: the pooler's weights go unused
            model = transformers.AutoModel.from_config(config, add_pooling_layer=False, **settings)
    model.tie_weights()  # left out with the initialization
    return model


def _match(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """The tensor of each parameter. A tied head is there once, as the embedding."""
    parameters = dict(model.named_parameters())
    source = {_without_head(name, model): name for name in checkpoint.tensors}
    unknown = [name for key, name in source.items() if key not in parameters]
    if unknown := [name for name in unknown if not re.fullmatch(checkpoint.form.unused, name)]:
        raise CheckpointError(f"{checkpoint.path}: {unknown[0]} has no place in the model")
    for name, parameter in parameters.items():
        if name not in source:
            raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}")
        shape = checkpoint.tensors[source[name]].shape
        if shape != tuple(parameter.shape):
            raise CheckpointError(
                f"{checkpoint.path}: {source[name]} has the shape {shape}",
                f"config.json implies {tuple(parameter.shape)}",
            )
    return {name: source[name] for name in parameters}


def _without_head(name: str, model: nn.Module) -> str:
    """A tensor's name in a bare encoder, where a checkpoint with a head on top has a prefix."""
    is_bare = getattr(model, "base_model", None) is model
    return name.removeprefix(f"{model.base_model_prefix}.") if is_bare else name
