"""The original model in PyTorch, in float32, filled from the checkpoint as it was read.

The models are transformers', but for OpenELM, which it lacks and ``reference.openelm`` computes.
They are filled from our own ``Checkpoint``, tensor by tensor, so that safetensors, pickles and
GGUF go one way, and the reference and the graph see the same weights. Code that comes with a
checkpoint is never run.
"""

import re

import psutil
import torch
import transformers
from transformers.initialization import no_init_weights

from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.models.openelm import OpenELMForm
from llmkg_lab.reference.openelm import OpenELM, load_by_layer


def load_model(
    checkpoint: Checkpoint, ranks: bool = False
) -> transformers.PreTrainedModel | OpenELM:
    """The model that config.json describes, in float32, filled from ``checkpoint``.

    ranks: with the classifier on top of an encoder, else without.

    Every parameter must have its tensor, and every tensor a place or a known reason to have
    none. Raises CheckpointError or UnsupportedError, which names the tensor.
    """
    form = checkpoint.form  # refuses what transformers may know and this project does not
    if isinstance(form, OpenELMForm):
        return _load_openelm(checkpoint, form)
    config = transformers.CONFIG_MAPPING[form.model_type].from_dict(checkpoint.config)
    settings = {"attn_implementation": "eager", "dtype": torch.float32, "trust_remote_code": False}
    # On the CPU and never on the meta device: buffers that no checkpoint holds, as the rotary
    # frequencies, are computed by the constructors, and would stay empty there.
    with torch.device("cpu"), no_init_weights():
        if ranks:
            model = transformers.AutoModelForSequenceClassification.from_config(config, **settings)
        elif not form.generates:  # embeddings pool hidden states: the pooler's weights go unused
            model = transformers.AutoModel.from_config(config, add_pooling_layer=False, **settings)
        else:
            model = transformers.AutoModelForCausalLM.from_config(config, **settings)
    model.tie_weights()  # left out with the initialization
    _fill(model, checkpoint)
    return model.eval()


def _load_openelm(checkpoint: Checkpoint, form: OpenELMForm, room: int | None = None) -> OpenELM:
    """OpenELM whole in memory, or layer by layer where it takes more than half the ``room``.

    room: bytes, by default what the machine has to give.
    """

    def fill(module: torch.nn.Module, prefix: str) -> None:
        for name, parameter in module.named_parameters():
            parameter.detach().numpy()[...] = checkpoint.read(f"{prefix}.{name}")

    with torch.device("meta"):
        empty = OpenELM(form)
    _match(empty, checkpoint)
    nbytes = 4 * sum(parameter.numel() for parameter in empty.parameters())
    if nbytes > (room or psutil.virtual_memory().available) / 2:
        return load_by_layer(form, fill).eval()
    model = empty.to_empty(device="cpu")
    _fill(model, checkpoint)
    return model.eval()


def _fill(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in _match(model, checkpoint).items():
        parameters[name].detach().numpy()[...] = checkpoint.read(tensor)


def _match(model: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
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


def _without_head(name: str, model: torch.nn.Module) -> str:
    """A tensor's name in a bare encoder, where a checkpoint with a head on top has a prefix."""
    is_bare = getattr(model, "base_model", None) is model
    return name.removeprefix(f"{model.base_model_prefix}.") if is_bare else name
