"""A checkpoint folder as the Hub has it: config.json and tokenizer files around the weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo, read_json
from llmkg_lab.checkpoint.pooling import read_pooling

COPIED = ("generation_config.json", "special_tokens_map.json")
# what a folder may hold in place of tokenizer.json
SLOW_TOKENIZERS = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.txt")


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
        path = self.path / "tokenizer.json"
        if path.exists():
            content, config = path.read_bytes(), {}
            _check(path, content)
        elif any((self.path / name).exists() for name in SLOW_TOKENIZERS):
            content, config = _fast_tokenizer(self.path)
        else:
            return {}
        config |= self._tokenizer_config()
        return {
            "tokenizer.json": content,
            "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
        }

    def _tokenizer_config(self) -> dict:
        path, template = self.path / "tokenizer_config.json", self.path / "chat_template.jinja"
        config = read_json(path) if path.exists() else {}
        if template.exists():  # Transformers.js reads the template only from the config
            try:
                config["chat_template"] = template.read_text(encoding="utf-8")
            except ValueError as error:
                raise CheckpointError(f"{template} is no UTF-8: {error}") from None
        return config


def _check(path: Path, content: bytes) -> None:
    try:
        Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers has no type of its own for it
        raise CheckpointError(f"{path} is no tokenizer: {error}", "fetch it again") from None


def _fast_tokenizer(folder: Path) -> tuple[bytes, dict]:
    """tokenizer.json and its config, made by transformers from an older form."""
    from transformers import AutoTokenizer  # seconds to import, and rarely needed

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        with TemporaryDirectory() as saved:
            tokenizer.save_pretrained(saved)
            config = read_json(Path(saved) / "tokenizer_config.json")
            return (Path(saved) / "tokenizer.json").read_bytes(), config
    except Exception as error:  # whatever transformers makes of a damaged file
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be converted: {error}",
            "a folder with a tokenizer.json needs no conversion",
        ) from error
