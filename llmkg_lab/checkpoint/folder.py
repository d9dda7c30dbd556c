"""A checkpoint folder as the Hub has it: config.json and tokenizer files around the weights."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llmkg_lab.checkpoint import tokenizer_files
from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo, read_json
from llmkg_lab.checkpoint.pooling import read_pooling

log = logging.getLogger(__name__)

COPIED = ("generation_config.json", "special_tokens_map.json")


class FolderCheckpoint(Checkpoint):
    """The files around the weights."""

    def __init__(
        self, folder: Path, tensors: Mapping[str, TensorInfo], weight_files: Sequence[Path]
    ) -> None:
        if not (folder / "config.json").exists():
            raise CheckpointError(f"{folder} lacks config.json", "a model cannot be built without")
        super().__init__(folder, read_json(folder / "config.json"), tensors, weight_files)

    def sidecars(self) -> dict[str, bytes]:
        copied = [name for name in COPIED if (self.path / name).exists()]
        return self._tokenizer() | {name: (self.path / name).read_bytes() for name in copied}

    @property
    def pooling(self) -> dict | None:
        return read_pooling(self.path, self.config)

    def _tokenizer(self) -> dict[str, bytes]:
        """tokenizer.json and tokenizer_config.json, none where the folder has no tokenizer."""
        config = self._tokenizer_config()
        if (reading := self._reading) is None:
            return {}
        for name, token in reading["special"].items():
            if _content(config.get(name)) != token:
                config[name] = token
        if "token_type_ids" not in reading["inputs"]:
            config.setdefault("model_input_names", reading["inputs"])
        return {
            "tokenizer.json": reading["tokenizer"],
            "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
        }

    @cached_property
    def _reading(self) -> dict[str, Any] | None:
        """What transformers reads, with a word where that is not what one would expect."""
        folder = self.tokenizer_folder
        reading = tokenizer_files.read_folder(folder)
        if reading is None or not reading["changed"]:
            return reading
        said = self._tokenizer_config()
        if (folder / "tokenizer.json").exists():
            log.warning(
                "%s: transformers' %s takes its own %s in the place of tokenizer.json's",
                folder,
                said.get("tokenizer_class", "class of the model"),
                ", ".join(reading["changed"]),
            )
        elif (folder / "tokenizer.model").exists() and "add_bos_token" not in said:
            log.warning(
                "%s: tokenizer_config.json has no add_bos_token, so transformers puts no BOS "
                "before a text, and without a tokenizer_class no space",
                folder,
            )
        return reading

    def _tokenizer_config(self) -> dict:
        folder = self.tokenizer_folder
        path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = read_json(path) if path.exists() else {}
        if template.exists():  # Transformers.js reads the template only from the config
            try:
                config["chat_template"] = template.read_text(encoding="utf-8")
            except ValueError as error:
                raise CheckpointError(f"{template} is not UTF-8: {error}") from None
        if self.chat_template:
            config.setdefault("chat_template", self.chat_template)
        return config


def _content(token: object) -> object:
    """A special token's text, which may stand among its properties."""
    return token.get("content") if isinstance(token, dict) else token
