"""Which files of a Hub repository a conversion needs.

It needs no second copy of the weights, no other framework's, no exports.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",  # SentencePiece
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.txt",  # WordPiece
    "vocab.json",  # byte-level BPE
    "merges.txt",
)
CONFIG = (
    r"config\.json",
    r"generation_config\.json",
    r"quant(ize)?_config\.json",  # says that the weights are quantized
    r"adapter_config\.json",  # says that the repository is no whole model
    r"modules\.json",  # sentence-transformers, down to the last
    r"config_sentence_transformers\.json",
    r"sentence_[\w-]+_config\.json",
    r"\d+_\w+/config\.json",  # of each module
)
ENCODER = r"\d+_Transformer"  # the folder of the encoder, where it is not the repository itself
# one form of weights is enough; the first that is there
WEIGHTS = (
    r"model\.safetensors",
    r"model(-\d{5}-of-\d{5}\.safetensors|\.safetensors\.index\.json)",
    r"pytorch_model\.bin",
    r"pytorch_model(-\d{5}-of-\d{5}\.bin|\.bin\.index\.json)",
)
GGUF = r"[^/]+\.gguf"


def weight_files(names: Iterable[str]) -> list[str]:
    """The weights in the best form that the repository has, with their index where sharded.

    A GGUF file counts where it is the only one: of several, who fetches has to choose.
    """
    names = sorted(names)
    for pattern in WEIGHTS:
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return found
    found = [name for name in names if re.fullmatch(GGUF, name)]
    return found if len(found) == 1 else []


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """The tokenizer in all its forms; they are small, and not every repository has the same."""
    return sorted(set(names) & set(TOKENIZER))


def checkpoint_files(names: Iterable[str]) -> list[str]:
    """All that a conversion reads."""
    names = set(names)
    configs = {name for name in names if any(re.fullmatch(pattern, name) for pattern in CONFIG)}
    own = {*weight_files(names), *tokenizer_files(names), *configs}
    return sorted(own.union(*(_inside(names, folder) for folder in _encoders(names))))


def lacks(repo: str, names: Iterable[str]) -> tuple[str, str] | None:
    """Why a repository holds no model to convert, and what to do; None where it holds one.

    Args:
        names: All of its files.
    """
    names = sorted(names)
    if "adapter_config.json" in names or any(map(_is_weights, checkpoint_files(names))):
        return None  # that an adapter is no model is said by whoever opens it
    if found := [name for name in names if re.fullmatch(GGUF, name)]:
        return (
            f"{repo} holds {len(found)} GGUF files and no other weights",
            f"choose one: hf download {repo} {found[0]} --local-dir ., then name that file",
        )
    return (
        f"{repo} holds no weights: found {', '.join(names[:8]) or 'nothing'}",
        "expected model.safetensors, pytorch_model.bin, an index of either, or a .gguf file",
    )


def _is_weights(name: str) -> bool:
    return bool(weight_files([PurePosixPath(name).name]))


def _encoders(names: Iterable[str]) -> set[str]:
    folders = {PurePosixPath(name).parent.as_posix() for name in names}
    return {folder for folder in folders if re.fullmatch(ENCODER, folder)}


def _inside(names: Iterable[str], folder: str) -> set[str]:
    """What a conversion reads of a folder that is a checkpoint of its own."""
    inside = [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
    return {f"{folder}/{name}" for name in checkpoint_files(inside)}
