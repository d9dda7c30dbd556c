"""The original as the field's own tools open it: transformers and sentence-transformers.

They read its files themselves: no fault of this project's reader can be in what they compute.
Where they have no code for a model, ``filled`` or this project's own tokenizer takes their place,
and the name of the judge says why. Code that comes with a checkpoint is never run.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import tokenizers
import torch
import transformers
from safetensors import safe_open
from transformers import integrations, modeling_gguf_pytorch_utils

from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.checkpoint.names import current
from llmkg_lab.checkpoint.views import View
from llmkg_lab.models.openelm import OpenELMForm
from llmkg_lab.reference import filled

SHARE = 3 / 4  # of the memory that is free: what a model's weights may take
OFFLINE = {"local_files_only": True, "trust_remote_code": False}
MODEL = {"dtype": torch.float32, "attn_implementation": "eager"}
SIZES = {"attention.key_length", "attention.value_length"}  # GGUF's; the tensors have them too

T = TypeVar("T")


@dataclass(frozen=True)
class Original:
    """A checkpoint's tokenizer in transformers, and its name."""

    tokenizer: transformers.PreTrainedTokenizerBase
    judge: str

    def encode(self, text: str, special: bool) -> list[int]:
        """Return a text's ids, with what stands around it or not."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        return ids

    def ask(self, text: str) -> list[int]:
        """Return the ids of a question, as the chat template asks it. Raises CheckpointError."""
        message = [{"role": "user", "content": text}]
        options = {"add_generation_prompt": True, "return_dict": False}
        return opened(
            self.tokenizer.name_or_path or "the chat template",
            lambda: self.tokenizer.apply_chat_template(message, **options),
        )


def tokenizer(checkpoint: Checkpoint) -> Original:
    """Return the original's tokenizer. Raises CheckpointError."""
    place, options = _place(checkpoint.tokenizer_folder)
    if reason := unread_tokenizer(checkpoint):
        original = _own_in_transformers(checkpoint)
        judge = f"this project's own tokenizer, for {reason}"
    else:
        original = opened(
            place, lambda: transformers.AutoTokenizer.from_pretrained(place, **options, **OFFLINE)
        )
        judge = f"AutoTokenizer of {_versions('transformers', 'tokenizers')}"
    if not original.chat_template:  # the roster's, where the files hold none
        original.chat_template = checkpoint.chat_template or None
    return Original(original, judge)


def decoder(checkpoint: Checkpoint, room: int | None = None) -> tuple[filled.Model, str]:
    """Return a language model and its name.

    room: bytes of which it may take a part, by default the memory that is free.
    Raises CheckpointError or UnsupportedError where the weights do not fill the model.
    """
    free = psutil.virtual_memory().available if room is None else room
    is_large = 4 * checkpoint.parameters > SHARE * free
    if reason := unread(checkpoint) or (is_large and "its weights do not fit in memory whole"):
        load = filled.load_by_layer if is_large else filled.load_model
        files = _files_of(checkpoint)
        return load(checkpoint, files), filled_name(checkpoint, reason, files is not None)
    place, options = _place(checkpoint.path)
    settings = {**MODEL, **OFFLINE, **options, "output_loading_info": True}
    model, info = opened(
        place, lambda: transformers.AutoModelForCausalLM.from_pretrained(place, **settings)
    )
    if missing := sorted(info["missing_keys"]):  # which it draws at random
        raise CheckpointError(f"{place} lacks the tensor {missing[0]}", "fetch it again")
    return model.eval(), name(type(model), checkpoint, "transformers")


# What the tools cannot open


def unread(checkpoint: Checkpoint) -> str:
    """Return why no tool opens the model; empty where one does."""
    if isinstance(checkpoint, View):
        return "its weights lie in no file"
    if isinstance(checkpoint.form, OpenELMForm):
        return "transformers has no code for OpenELM"
    return _unread_gguf(checkpoint.path) if checkpoint.path.is_file() else ""


def _unread_gguf(path: Path) -> str:
    from transformers.integrations.gguf.reader import read_gguf_metadata

    metadata, _ = read_gguf_metadata(str(path))
    architecture = metadata["general.architecture"]
    if architecture not in integrations.GGUF_CONFIG_MAPPING:
        return f"transformers does not read GGUF of the architecture {architecture}"
    known = {*integrations.GGUF_CONFIG_MAPPING[architecture], *SIZES}
    names = {key: key.removeprefix(f"{architecture}.") for key in metadata}
    ignored = [key for key, name in names.items() if name != key and name not in known]
    return f"transformers ignores {', '.join(ignored)}" if ignored else ""


def unread_tokenizer(checkpoint: Checkpoint) -> str:
    """Return why transformers does not open the tokenizer; empty where it does."""
    if not checkpoint.tokenizer_folder.is_file():
        return ""
    # these import the tokenizers of many models
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    from transformers.integrations.gguf.reader import read_gguf_metadata

    metadata, _ = read_gguf_metadata(str(checkpoint.tokenizer_folder))
    kind, split = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2":
        return f"transformers does not cut texts as llama.cpp does by tokenizer.ggml.model {kind}"
    is_known = split in {"gpt-2", *GGUF_PRE_TOKENIZER_SPLITS}
    return "" if is_known else f"transformers ignores tokenizer.ggml.pre {split}"


# How they are opened


def opened(place: Path | str, load: Callable[[], T]) -> T:
    """Open something with a tool. Raises CheckpointError where the tool cannot."""
    try:
        with _quiet():
            return load()
    except Exception as error:  # of as many kinds as there are tools and files
        raise CheckpointError(
            f"{place}: the tool that is to judge it cannot open it: {error}",
            "a report is on what transformers and sentence-transformers open",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tools' own bars and remarks, which would stand between ours."""
    log, sentences = transformers.utils.logging, logging.getLogger("sentence_transformers")
    level, bars, theirs = log.get_verbosity(), log.is_progress_bar_enabled(), sentences.level
    bar = modeling_gguf_pytorch_utils.tqdm  # it asks nobody
    try:
        log.set_verbosity_error()
        log.disable_progress_bar()
        sentences.setLevel(logging.ERROR)
        modeling_gguf_pytorch_utils.tqdm = lambda items, **_: items
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar
        sentences.setLevel(theirs)
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _files_of(checkpoint: Checkpoint) -> filled.Files | None:
    """OpenELM's files as safetensors' own library reads them, None where they are others."""
    shards = sorted(checkpoint.path.glob("model*.safetensors"))
    if isinstance(checkpoint, View) or not isinstance(checkpoint.form, OpenELMForm) or not shards:
        return None
    config = json.loads((checkpoint.path / "config.json").read_bytes())
    places: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in shards:
        with safe_open(path, framework="pt") as file:
            for stored, name in current(config, file.keys()).items():
                places[name] = path, stored
                shapes[name] = tuple(file.get_slice(stored).get_shape())

    def read(tensor: str) -> np.ndarray:
        path, stored = places[tensor]
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(stored).float().numpy()

    return filled.Files(config, shapes, read)


def _place(path: Path) -> tuple[Path, dict[str, str]]:
    """The folder that is opened, and the file in it where that is GGUF."""
    return (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})


def _own_in_transformers(checkpoint: Checkpoint) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of this project, around which transformers asks by the chat template."""
    config = json.loads(checkpoint.sidecars()["tokenizer_config.json"])
    known = {key: config[key] for key in config if key.endswith("_token") or key == "chat_template"}
    core = own_tokenizer(checkpoint)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **known)


def own_tokenizer(checkpoint: Checkpoint) -> tokenizers.Tokenizer:
    """Return the tokenizer that this project reads or makes of the checkpoint's files."""
    core = tokenizers.Tokenizer.from_buffer(checkpoint.sidecars()["tokenizer.json"])
    core.no_padding()
    core.no_truncation()
    return core


# What they are called


def name(tool: type, checkpoint: Checkpoint, *packages: str) -> str:
    """Return the name of a judge that a tool opened."""
    versions = _versions(*packages, "torch")
    return f"{tool.__name__} of {versions}, in float32, from {checkpoint.path.name}"


def filled_name(checkpoint: Checkpoint, reason: str, by_library: bool = False) -> str:
    """Return the name of a judge that ``filled`` built, and why no tool opened it.

    by_library: the tensors were read by safetensors, and not by this project's own reader.
    """
    reader = _versions("safetensors") if by_library else "this project's own reader"
    return (
        f"PyTorch ({_versions('torch')}), in float32, "
        f"filled from {checkpoint.path.name} by {reader}, for {reason}"
    )


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)
