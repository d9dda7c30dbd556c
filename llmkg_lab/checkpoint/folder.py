"""A checkpoint folder as the Hub has it: config.json and tokenizer files around the weights."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from llmkg_lab.checkpoint import claims, keys, names, tokenizer_config, tokenizer_files
from llmkg_lab.checkpoint.base import (
    Checkpoint,
    CheckpointError,
    TensorInfo,
    read_json,
    read_sidecar,
)
from llmkg_lab.checkpoint.pooling import Pipeline
from llmkg_lab.checkpoint.shards import read_all

GENERATION, SPECIAL_TOKENS = "generation_config.json", "special_tokens_map.json"
VOCABULARIES = (  # that a tokenizer may be made of where there is not a tokenizer.json
    *("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "vocab.json"),
)
TOKENIZER = {  # what says how a tokenizer is to be used
    "tokenizer_config.json": keys.TOKENIZER_CONFIG,
    SPECIAL_TOKENS: keys.SPECIAL_TOKENS,
    "added_tokens.json": keys.ADDED_TOKENS,
}
TOKENIZER_FILES = (
    *("tokenizer.json", "merges.txt", "chat_template.jinja", *VOCABULARIES, *TOKENIZER),
)

T = TypeVar("T")


class FolderCheckpoint(Checkpoint, Generic[T]):
    """The files around the weights, which are in a format of their own.

    T: what the format has of a tensor.
    """

    single: ClassVar[str]  # the weights' file, where there is one

    def __init__(self, folder: Path, pipeline: Pipeline | None = None) -> None:
        self._inner = inner = pipeline.inner if pipeline else folder
        self._pipeline = pipeline
        if not (inner / "config.json").exists():
            raise CheckpointError(f"{inner} lacks config.json", "a model cannot be built without")
        config = read_json(inner / "config.json")
        stored, files = read_all(inner, self.single, self._load)
        self._stored: dict[str, T] = {}
        for name, today in names.current(config, stored).items():
            if today in self._stored:
                raise CheckpointError(f"{inner} holds the tensor {today} a second time, as {name}")
            self._stored[today] = stored[name]
        tensors = {name: self._info(name, entry) for name, entry in self._stored.items()}
        super().__init__(folder, config, tensors, files)
        self.tokenizer_folder = inner

    @staticmethod
    @abstractmethod
    def _load(path: Path) -> Mapping[str, T]:
        """The tensors of one file by their stored names."""

    @staticmethod
    @abstractmethod
    def _info(name: str, stored: T) -> TensorInfo:
        """What there is to know of a tensor without its values."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json, as far as it is true of the weights: see ``claims``."""
        return claims.settled(self, self._config, self._quantizers)

    @cached_property
    def _quantizers(self) -> dict[str, dict[str, Any]]:
        """What quantizers of before said in files of their own, by name."""
        names = [name for name in claims.QUANTIZERS if (self._inner / name).exists()]
        return {name: read_json(self._inner / name) for name in names}

    def _remarks(self) -> Iterator[str]:
        yield from super()._remarks()
        yield from claims.remarks(self._config, self.config, self._quantizers)
        if (self._inner / GENERATION).exists():
            generation = read_json(self._inner / GENERATION)
            yield from keys.check(keys.GENERATION, generation, GENERATION)
            keys.check_ids(generation, GENERATION)
        yield from self._tokenizer_remarks()
        if self._pipeline:
            yield from self._pipeline.remarks()

    def sidecars(self) -> dict[str, bytes]:
        for name in TOKENIZER_FILES:  # read by others as well, which would follow any link
            if (self.tokenizer_folder / name).exists():
                read_sidecar(self.tokenizer_folder, name)
        copied = [name for name in (GENERATION, SPECIAL_TOKENS) if (self._inner / name).exists()]
        tokenizer = self._as_in_the_pipeline(self._tokenizer())
        return tokenizer | {name: read_sidecar(self._inner, name) for name in copied}

    @property
    def pooling(self) -> dict[str, Any] | None:
        return self._pipeline.pooling(self._config) if self._pipeline else None

    def _as_in_the_pipeline(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """A tokenizer's files, changed to what sentence-transformers makes of it."""
        if self._pipeline is None or not files:
            return files
        if self._pipeline.lowers:
            files = files | {"tokenizer.json": _lowering(files["tokenizer.json"])}
        if self.pooling is None and self._pipeline.encoder.get("max_seq_length") is not None:
            # what pairs are cut to; an embedder's length is in its pooling
            length = self._pipeline.max_length(self._config)
            config = json.loads(files["tokenizer_config.json"]) | {"model_max_length": length}
            content = json.dumps(config, indent=2, ensure_ascii=False).encode()
            files = files | {"tokenizer_config.json": content}
        return files

    def _tokenizer_remarks(self) -> Iterator[str]:
        folder = self.tokenizer_folder
        for name, table in TOKENIZER.items():
            if (folder / name).exists():
                yield from keys.check(table, read_json(folder / name), name)
        if (path := folder / "tokenizer.json").exists():
            yield from keys.check_tokenizer(read_json(path), path.name)
        elif not any((folder / name).exists() for name in VOCABULARIES):
            yield f"{folder} holds no tokenizer: what is made of it takes tokens, and no text"
        yield from self._changed_by_transformers()

    def _changed_by_transformers(self) -> Iterator[str]:
        """What transformers reads where that is not what one would expect."""
        folder = self.tokenizer_folder
        try:
            reading, said = self._reading, self._tokenizer_config()
        except CheckpointError:  # whoever needs the tokenizer is told
            return
        changed = reading["changed"] if reading else []
        if not self.form.generates:  # an encoder's tokens become no text
            changed = [part for part in changed if part != "decoder"]
        if not changed:
            return
        if (folder / "tokenizer.json").exists():
            name = said.get("tokenizer_class", "class of the model")
            parts = ", ".join(changed)
            yield f"transformers' {name} takes its own {parts} in the place of tokenizer.json's"
        elif (folder / "tokenizer.model").exists() and "add_bos_token" not in said:
            yield (
                "tokenizer_config.json has no add_bos_token, so transformers puts no BOS before a "
                "text, and without a tokenizer_class no space"
            )

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
        """What transformers reads."""
        return tokenizer_files.read_folder(self.tokenizer_folder)

    def _tokenizer_config(self) -> dict[str, Any]:
        folder = self.tokenizer_folder
        path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = read_json(path) if path.exists() else {}
        try:
            config = tokenizer_config.checked(config)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}", "fetch it again") from None
        if template.exists():  # Transformers.js reads the template only from the config
            try:
                config["chat_template"] = template.read_text(encoding="utf-8")
            except ValueError as error:
                raise CheckpointError(f"{template} is not UTF-8: {error}") from None
        if self.chat_template:
            config.setdefault("chat_template", self.chat_template)
        return config


def _lowering(content: bytes) -> bytes:
    """A tokenizer.json that lower-cases a text first, as sentence-transformers has it do."""
    spec = json.loads(content)
    normalizer = spec.get("normalizer")
    sequence = (normalizer or {}).get("type") == "Sequence"
    steps = normalizer["normalizers"] if sequence else [normalizer] if normalizer else []
    if any(step["type"] == "Lowercase" for step in steps):
        return content
    spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    return json.dumps(spec, ensure_ascii=False).encode()


def _content(token: object) -> object:
    """A special token's text, which may stand among its properties."""
    return token.get("content") if isinstance(token, dict) else token
