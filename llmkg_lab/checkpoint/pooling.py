"""What a folder of sentence-transformers makes of a text: its modules, and their settings.

Source: sentence-transformers 6.2. It reads modules.json, config_sentence_transformers.json beside
it, and in the encoder's own folder sentence_bert_config.json.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llmkg_lab.base.files import is_beside
from llmkg_lab.checkpoint import keys
from llmkg_lab.checkpoint.base import CheckpointError, json_object, read_json, read_sidecar

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# the encoder's settings, under the names that they had for other encoders than BERT
ENCODER = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
OWN = "sentence_transformers."  # a class of another package is code that nothing here runs
MODES = ("mean", "cls")
NO_LENGTH = 1 << 62  # transformers writes a still larger model_max_length where there is none


def longest(tokenizer: Mapping[str, Any], positions: int) -> int:
    """The tokens that a text is cut to where nothing pools.

    Args:
        tokenizer: tokenizer_config.json.
        positions: That the model has.
    """
    said = tokenizer.get("model_max_length")
    if isinstance(said, int | float) and 1 <= said < NO_LENGTH:
        return min(int(said), positions)
    return positions


@dataclass(frozen=True)
class Pipeline:
    """The modules of a folder, and what they are set to."""

    folder: Path
    modules: list[dict[str, Any]]  # of modules.json, in turn
    settings: dict[str, Any]  # of all of them
    encoder: dict[str, Any]
    encoder_path: Path  # of its settings

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the files, None where ``folder`` is not one of sentence-transformers.

        Raises CheckpointError where the modules cannot be told, or are not its own.
        """
        if not (folder / MODULES).exists():
            return None
        modules = list(_entries(folder))
        if not modules or _kind(modules[0]) != "Transformer":
            raise _unsupported(folder, modules)
        settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
        inner = folder / modules[0]["path"]
        found = [
            (inner / name, read_json(inner / name)) for name in ENCODER if (inner / name).exists()
        ]
        path, encoder = next((pair for pair in found if pair[1]), (inner / ENCODER[0], {}))
        return cls(folder, modules, settings, encoder, path)

    @property
    def inner(self) -> Path:
        """The folder of the encoder with its tokenizer: this one, or one inside it."""
        return self.folder / str(self.modules[0]["path"])

    @property
    def lowers(self) -> bool:
        """Whether a text is lower-cased before it is tokenized."""
        return bool(self.encoder.get("do_lower_case"))

    def pooling(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """What ``Checkpoint.pooling`` says; None where nothing pools.

        config: config.json, whose positions bound a text where nothing else does.
        Raises CheckpointError on a pipeline that does something else besides.
        """
        kinds = [_kind(module) for module in self.modules]
        prompt = self._prompt()
        if kinds == ["Transformer"]:
            if prompt:
                raise CheckpointError(
                    f"{self.folder / SETTINGS}: default_prompt_name puts {prompt!r} before a query",
                    "supported are prompts of embedders",
                )
            return None
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise _unsupported(self.folder, self.modules)
        pooling = {
            "mode": self._mode(prompt),
            "normalize": "Normalize" in kinds,
            "max_length": self.max_length(config),
        }
        kept = self._kept(config.get("hidden_size"))
        return pooling | ({"prompt": prompt} if prompt else {}) | kept

    def max_length(self, config: Mapping[str, Any]) -> int:
        """What a text is cut to: what the encoder is set to or else its tokenizer, as it fits."""
        place, length = f"{self.encoder_path}: max_seq_length", self.encoder.get("max_seq_length")
        tokenizer = self.inner / "tokenizer_config.json"
        if length is None and tokenizer.exists():
            place, length = (
                f"{tokenizer}: model_max_length",
                read_json(tokenizer).get("model_max_length"),
            )
        positions = config.get("max_position_embeddings")
        lengths = {f"{self.inner / 'config.json'}: max_position_embeddings": positions}
        lengths |= {place: length} if length is not None else {}
        return int(min(_length(value, name) for name, value in lengths.items()))

    def remarks(self) -> Iterator[str]:
        """Say what a user must know of the files' keys. Raises CheckpointError on one refused."""
        for module in self.modules:
            yield from keys.check(keys.MODULE, module, self.folder / MODULES)
            table = {"Pooling": keys.POOLING, "Normalize": keys.NORMALIZE}.get(_kind(module))
            if table is not None:
                yield from keys.check(table, self._config_of(module), self._path_of(module))
        yield from keys.check(keys.SENTENCE_TRANSFORMERS, self.settings, self.folder / SETTINGS)
        yield from keys.check(keys.SENTENCE_BERT, self.encoder, self.encoder_path)
        default = self.settings.get("default_prompt_name")
        asked = [name for name, text in self._prompts().items() if text and name != default]
        if asked:
            yield (
                f"{self.folder / SETTINGS}: the prompts {', '.join(asked)} are put before no text: "
                "whoever embeds has to write them"
            )

    def _path_of(self, module: Mapping[str, Any]) -> Path:
        return self.folder / str(module["path"]) / "config.json"

    def _config_of(self, module: Mapping[str, Any]) -> dict[str, Any]:
        path = self._path_of(module)
        if not path.exists():
            return {}
        return json_object(read_sidecar(self.folder, f"{module['path']}/config.json"), path)

    def _prompts(self) -> dict[str, str]:
        """The prompts by name; a query and a document always have one, by default an empty one."""
        prompts = self.settings.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(
            isinstance(text, str | None) for text in prompts.values()
        ):
            raise CheckpointError(f"{self.folder / SETTINGS}: prompts are not texts by name")
        return {"query": "", "document": ""} | {name: text or "" for name, text in prompts.items()}

    def _prompt(self) -> str:
        """What is put before each text unless it is asked otherwise."""
        name, prompts = self.settings.get("default_prompt_name"), self._prompts()
        if name is None:
            return ""
        if not isinstance(name, str) or name not in prompts:
            raise CheckpointError(
                f"{self.folder / SETTINGS}: default_prompt_name is {name!r}",
                f"prompts has {', '.join(prompts)}",
            )
        return prompts[name]

    def _kept(self, hidden: object) -> dict[str, int]:
        """truncate_dim, the elements that are kept of an embedding, where it is not all of them."""
        kept = self.settings.get("truncate_dim")
        if kept is None:
            return {}
        if not isinstance(kept, int) or isinstance(kept, bool) or kept < 1:
            raise CheckpointError(
                f"{self.folder / SETTINGS}: truncate_dim is {kept!r}, which is not a size"
            )
        return {"truncate_dim": kept} if isinstance(hidden, int) and kept < hidden else {}

    def _mode(self, prompt: str) -> str:
        """How the states become one; the mean of them where nothing is said."""
        module = self.modules[1]
        path, config = self._path_of(module), self._config_of(module)
        if not path.exists():
            raise CheckpointError(
                f"{self.folder} lacks {path.relative_to(self.folder)}", "fetch it"
            )
        if prompt and not config.get("include_prompt", True):
            raise CheckpointError(
                f"{path}: include_prompt is false, and there is the prompt {prompt!r}",
                "pooling that leaves a prompt's tokens out is not supported",
            )
        modes = config.get("pooling_mode") or [
            mode for switch, mode in keys.SWITCHES.items() if config.get(switch)
        ]
        modes = (modes if isinstance(modes, list) else [modes]) or ["mean"]
        if len(modes) != 1 or modes[0] not in MODES:
            raise CheckpointError(
                f"{path}: pooling by {', '.join(map(str, modes))} is not supported",
                "supported are the mean over tokens (mean) and the first token (cls)",
            )
        mode: str = modes[0]
        return mode


def _length(value: object, name: str) -> float:
    if not isinstance(value, int | float) or not value >= 1:  # NaN is not
        raise CheckpointError(f"{name} is {value!r}, which is not a length")
    return value


def _kind(module: Mapping[str, Any]) -> str:
    """The class without its package."""
    kind: str = module["type"].rsplit(".", 1)[-1]
    return kind


def _unsupported(folder: Path, modules: list[dict[str, Any]]) -> CheckpointError:
    return CheckpointError(
        f"{folder} embeds by {', '.join(map(_kind, modules)) or 'nothing'}",
        "supported is Transformer, Pooling and, if wanted, Normalize",
    )


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The entries of modules.json, each with a class of sentence-transformers and a folder."""
    path = folder / MODULES
    try:
        entries = json.loads(read_sidecar(folder, MODULES))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "fetch it again") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"{path} is not a list of modules", "fetch it again")
    for entry in entries:
        kind, inner = entry.get("type"), entry.get("path")
        if not isinstance(kind, str) or not kind.startswith(OWN):
            raise CheckpointError(
                f"{path} names the class {kind!r}", "supported are those of sentence-transformers"
            )
        if inner != "" and not is_beside(inner):
            raise CheckpointError(f"{path} names {inner!r}, which is not a folder beside it")
        yield entry
