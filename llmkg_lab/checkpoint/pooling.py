"""How a folder of sentence-transformers makes one vector of a text (modules.json)."""

import json
from pathlib import Path, PurePath

from llmkg_lab.checkpoint.base import CheckpointError, read_json

MODES = ("mean", "cls")
# since 5.4 one key names the mode; before, each mode had a switch of its own
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_pooling(folder: Path, config: dict) -> dict | None:
    """Mode (mean or cls), normalize and max_length in tokens; None where nothing pools.

    config: config.json, whose positions bound a text where the folder names no length.
    Raises CheckpointError on a pipeline that does something else besides.
    """
    if not (folder / "modules.json").exists():
        return None
    modules = _modules(folder / "modules.json")
    kinds = [kind for kind, _ in modules]
    if kinds == ["Transformer"]:
        return None
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{folder} embeds by {', '.join(kinds) or 'nothing'}",
            "supported is Transformer, Pooling and, if wanted, Normalize",
        )
    return {
        "mode": _mode(folder / modules[1][1] / "config.json"),
        "normalize": "Normalize" in kinds,
        "max_length": _max_length(folder, config.get("max_position_embeddings")),
    }


def _modules(path: Path) -> list[tuple[str, str]]:
    """(class, folder) of each module in turn."""
    try:
        modules = json.loads(path.read_bytes())
        found = [(module["type"].rsplit(".", 1)[-1], module["path"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}", "fetch it again") from None
    for _, name in found:
        if name != "" and (not isinstance(name, str) or PurePath(name).name != name):
            raise CheckpointError(f"{path} names {name!r}, which is not a folder beside it")
    return found


def _mode(path: Path) -> str:
    config = read_json(path)
    modes = config.get("pooling_mode") or [
        mode for switch, mode in SWITCHES.items() if config.get(switch)
    ]
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or modes[0] not in MODES:
        raise CheckpointError(
            f"{path}: pooling by {', '.join(map(str, modes)) or 'nothing'} is not supported",
            "supported are the mean over tokens (mean) and the first token (cls)",
        )
    return modes[0]


def _max_length(folder: Path, positions: object) -> int:
    """The shortest of what the model can take and what a text is said to be cut to."""
    sentence, tokenizer = folder / "sentence_bert_config.json", folder / "tokenizer_config.json"
    said = {
        f"{sentence}: max_seq_length": _value(sentence, "max_seq_length"),
        f"{tokenizer}: model_max_length": _value(tokenizer, "model_max_length"),
    }
    lengths = {f"{folder / 'config.json'}: max_position_embeddings": positions}
    lengths |= {name: length for name, length in said.items() if length is not None}
    for name, length in lengths.items():
        if not isinstance(length, int | float) or not length >= 1:  # NaN is not
            raise CheckpointError(f"{name} is {length!r}, which is not a length")
    return int(min(lengths.values()))


def _value(path: Path, key: str) -> object:
    return read_json(path).get(key) if path.exists() else None
