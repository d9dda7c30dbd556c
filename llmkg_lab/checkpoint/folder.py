"""A checkpoint folder as the Hub has it: config.json, tokenizer files, pooling modules."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo, read_json

COPIED = ("tokenizer.json", "generation_config.json", "special_tokens_map.json")
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
        files = {
            name: (self.path / name).read_bytes() for name in COPIED if (self.path / name).exists()
        }
        if "tokenizer.json" not in files:
            files |= self._fast_tokenizer()
        config = self._tokenizer_config()
        if config or "tokenizer.json" in files:
            files["tokenizer_config.json"] = json.dumps(config, indent=2).encode()
        return files

    def _tokenizer_config(self) -> dict:
        path, template = self.path / "tokenizer_config.json", self.path / "chat_template.jinja"
        config = read_json(path) if path.exists() else {}
        if template.exists():  # Transformers.js reads the template only from the config
            config["chat_template"] = template.read_text()
        return config

    def _fast_tokenizer(self) -> dict[str, bytes]:
        """tokenizer.json made from an older form, by transformers."""
        if not any((self.path / name).exists() for name in SLOW_TOKENIZERS):
            return {}
        from transformers import AutoTokenizer  # seconds to import, and rarely needed

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
            with TemporaryDirectory() as folder:
                tokenizer.save_pretrained(folder)
                return {"tokenizer.json": (Path(folder) / "tokenizer.json").read_bytes()}
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.path}: its tokenizer cannot be read: {error}") from error

    @property
    def pooling(self) -> dict | None:
        """From sentence-transformers' modules.json and the files that it names."""
        if not (self.path / "modules.json").exists():
            return None
        modules = json.loads((self.path / "modules.json").read_text())
        kinds = {module["type"].rsplit(".", 1)[-1] for module in modules}
        config = read_json(self.path / "1_Pooling" / "config.json")
        modes = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        if len(modes) != 1 or modes[0] not in names:
            raise CheckpointError(
                f"{self.path}: pooling by {', '.join(modes) or 'nothing'} is not supported",
                "supported are the mean over tokens and the first token",
            )
        return {
            "mode": names[modes[0]],
            "normalize": "Normalize" in kinds,
            "max_length": self._max_length(),
        }

    def _max_length(self) -> int:
        path = self.path / "sentence_bert_config.json"
        length = read_json(path).get("max_seq_length") if path.exists() else None
        return int(length or self.config["max_position_embeddings"])
