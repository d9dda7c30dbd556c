"""A checkpoint in PyTorch, in float32, filled tensor by tensor through this project's own reader.

It is what the solvers walk, whose checkpoints are often views of another. It does not judge an
artifact: a fault of the reader would be in both. ``reference.load`` opens the original with the
field's own tools, and comes here only where there are none. Code that comes with a checkpoint is
never run.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from torch import nn
from transformers.initialization import no_init_weights

from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.models.openelm import OpenELMForm
from llmkg_lab.reference.openelm import Dimensions, OpenELM

Model: TypeAlias = transformers.PreTrainedModel | OpenELM


@dataclass(frozen=True)
class Files:
    """What a model is built from: config.json, and the tensors by name."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]  # float32

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Files":
        """Return them as this project's own reader has them."""
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        return cls(checkpoint.config, shapes, checkpoint.read)


def load_model(checkpoint: Checkpoint, files: Files | None = None) -> Model:
    """Build the model that config.json describes, an encoder without a head, and fill it.

    files: read by others, where this project's own reader is not to be trusted.
    Every parameter must have its tensor, and every tensor a place or a known reason to have
    none. Raises CheckpointError or UnsupportedError, which names the tensor.
    """
    files = files or Files.of(checkpoint)
    # On the CPU and never on the meta device: buffers that no checkpoint holds, as the rotary
    # frequencies, are computed by the constructors, and would stay empty there.
    model = _empty(checkpoint, files, "cpu")
    tensors = _match(model, checkpoint, files)
    for name, parameter in model.named_parameters():
        parameter.detach().numpy()[...] = files.read(tensors[name])
    return model.eval()


def load_by_layer(checkpoint: Checkpoint, files: Files | None = None) -> Model:
    """Return a decoder that holds the weights of one layer at a time, and its tables.

    Each layer is filled when the computation comes to it and emptied behind it: memory for
    the widest layer suffices, and each pass reads the checkpoint once. Arguments and errors are
    those of ``load_model``.
    """
    files = files or Files.of(checkpoint)
    model = _empty(checkpoint, files, "meta")
    tensors = _match(model, checkpoint, files)
    path, layers = next(
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    )

    def fill(module: nn.Module, prefix: str) -> None:
        module.to_empty(device="cpu")
        for name, parameter in module.named_parameters():
            parameter.detach().numpy()[...] = files.read(tensors[f"{prefix}.{name}"])

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


def _empty(checkpoint: Checkpoint, files: Files, device: str) -> Model:
    form = checkpoint.form  # refuses what transformers may know and this project does not
    if isinstance(form, OpenELMForm):
        try:
            dims = Dimensions.read(files.config, files.shapes)
        except KeyError as error:
            raise CheckpointError(f"{checkpoint.path} lacks {error.args[0]}") from None
        with torch.device("meta"):
            model = OpenELM(dims)
        return model if device == "meta" else model.to_empty(device=device)
    config = transformers.CONFIG_MAPPING[form.model_type].from_dict(files.config)
    settings = {"attn_implementation": "eager", "dtype": torch.float32, "trust_remote_code": False}
    with torch.device(device), no_init_weights():
        if form.generates:
            model = transformers.AutoModelForCausalLM.from_config(config, **settings)
        else:  # embeddings pool hidden states: the pooler's weights go unused
            model = transformers.AutoModel.from_config(config, add_pooling_layer=False, **settings)
    model.tie_weights()  # left out with the initialization
    return model


def _match(model: nn.Module, checkpoint: Checkpoint, files: Files) -> dict[str, str]:
    """The tensor of each parameter. A tied head is there once, as the embedding."""
    parameters = dict(model.named_parameters())
    source = {_without_head(name, model): name for name in files.shapes}
    unknown = [name for key, name in source.items() if key not in parameters]
    if unknown := [name for name in unknown if not re.fullmatch(checkpoint.form.unused, name)]:
        raise CheckpointError(f"{checkpoint.path}: {unknown[0]} has no place in the model")
    for name, parameter in parameters.items():
        if name not in source:
            raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}")
        shape = files.shapes[source[name]]
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
