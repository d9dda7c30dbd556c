"""A checkpoint folder as the Hub has it: config.json and tokenizer files around the weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from llmkg_lab.checkpoint import spm
from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo, read_json
from llmkg_lab.checkpoint.pooling import read_pooling

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
        folder = self.tokenizer_folder
        said = self._tokenizer_config()
        if (path := folder / "tokenizer.json").exists():
            content, config = _checked(path), said
        elif (path := folder / "tokenizer.model").exists():
            tokenizer, config = spm.from_model(path, said)
            content = tokenizer.to_str().encode()
            fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
            config |= {"model_input_names": ["input_ids", "attention_mask"]} | said | fast
        elif (folder / "vocab.txt").exists():
            content, config = _converted(folder)
            config |= said
        elif (path := folder / "sentencepiece.bpe.model").exists():
            raise CheckpointError(
                f"{path} alone is not a tokenizer that can be read",
                "open it in transformers and save it: that writes tokenizer.json",
            )
        else:
            return {}
        return {
            "tokenizer.json": content,
            "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
        }

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


def _checked(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers has no type of its own for it
        raise CheckpointError(f"{path} is not a tokenizer: {error}", "fetch it again") from None
    return content


def _converted(folder: Path) -> tuple[bytes, dict]:
    """tokenizer.json and its config, made by transformers of a BERT's vocab.txt."""
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
