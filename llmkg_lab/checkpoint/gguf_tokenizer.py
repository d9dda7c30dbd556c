"""A fast tokenizer rebuilt from a GGUF file's metadata.

GGUF keeps a tokenizer's vocabulary and names its algorithm; the algorithm's fixed parts
(how text is split before the merges) are known by that name, as in llama.cpp.
"""

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from llmkg_lab.base.errors import panics_raised
from llmkg_lab.checkpoint import spm
from llmkg_lab.checkpoint.base import CheckpointError
from llmkg_lab.checkpoint.gguf_file import Metadata
from llmkg_lab.checkpoint.tokenizer_files import tried

# tokenizer_config.json's names; "seperator" is how GGUF spells it
SPECIAL = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "pad": "padding",
    "sep": "seperator",
    "cls": "cls",
    "mask": "mask",
}


def build(metadata: Metadata, max_length: int, chat_template: str = "") -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json, for a model of ``max_length`` positions.

    None of them where the file has no tokenizer.
    chat_template: of the config, where the file itself has none.
    Raises CheckpointError on a kind of tokenizer that is not known, and on broken metadata.
    """
    kind = metadata.get("tokenizer.ggml.model", str)
    if kind == "no_vocab":
        return {}
    builders = {"gpt2": _byte_level, "llama": _sentencepiece, "bert": _word_piece}
    if kind not in builders:
        raise CheckpointError(
            f"{metadata.path}: tokenizer of the kind {kind!r}",
            f"supported are {', '.join(builders)}",
        )
    special = _special_tokens(metadata)
    try:
        with panics_raised():
            content = builders[kind](metadata, special).to_str().encode()
        tried(content)
    except CheckpointError:
        raise
    except Exception as error:  # what tokenizers raises on a vocabulary that makes no sense
        raise CheckpointError(
            f"{metadata.path}: its tokenizer cannot be rebuilt: {error}", "fetch it again"
        ) from error
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": token for name, token in special.items()},
    }
    if kind != "bert":  # else transformers makes token_type_ids, which a decoder refuses
        config["model_input_names"] = ["input_ids", "attention_mask"]
    if template := metadata.get("tokenizer.chat_template", str, chat_template):
        config["chat_template"] = template
    return {
        "tokenizer.json": content,
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
    }


def _byte_level(metadata: Metadata, special: dict[str, str]) -> Tokenizer:
    """Byte-level BPE (GPT-2)."""
    split = metadata.get("tokenizer.ggml.pre", str, "none")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    splits = {"gpt-2": byte_level, "smollm": pre_tokenizers.Sequence([digits, byte_level])}
    if split not in splits:
        raise CheckpointError(
            f"{metadata.path}: pre-tokenizer {split!r}", f"supported are {', '.join(splits)}"
        )
    merges = metadata.items("tokenizer.ggml.merges", str)
    pairs: list[Any] = [tuple(merge.split(" ", 1)) for merge in merges]
    vocabulary = _vocabulary(metadata)
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer, tokenizer.decoder = splits[split], decoders.ByteLevel()
    kinds = metadata.items("tokenizer.ggml.token_type", int)
    spm.add_special(tokenizer, list(vocabulary), kinds)
    _add_ends(tokenizer, metadata, special, bos=False)
    return tokenizer


def _sentencepiece(metadata: Metadata, special: dict[str, str]) -> Tokenizer:
    tokenizer = spm.bpe(
        list(_vocabulary(metadata)),
        metadata.items("tokenizer.ggml.scores", float),
        metadata.items("tokenizer.ggml.token_type", int),
        prefix=metadata.get("tokenizer.ggml.add_space_prefix", bool, True),
    )
    _add_ends(tokenizer, metadata, special, bos=True)
    return tokenizer


def _word_piece(metadata: Metadata, special: dict[str, str]) -> Tokenizer:
    """BERT's WordPiece, uncased, as llama.cpp runs every one of them."""
    tokens = metadata.items("tokenizer.ggml.tokens", str)
    vocabulary = _unique(metadata, [_word_piece_of(token) for token in tokens])
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special.get("unk", "[UNK]")))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [special.get("sep", "[SEP]"), special.get("cls", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*((t, vocabulary[t]) for t in ends))
    tokenizer.add_special_tokens(list(dict.fromkeys([*special.values(), *ends])))
    return tokenizer


def _word_piece_of(token: str) -> str:
    """GGUF marks the start of a word, BERT its inside; [CLS] and the like stay as they are."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix(spm.SPACE) if token.startswith(spm.SPACE) else f"##{token}"


def _add_ends(
    tokenizer: Tokenizer, metadata: Metadata, special: dict[str, str], *, bos: bool
) -> None:
    """The tokens before and after a text. bos: whether one comes before where nothing is said."""
    first = metadata.get("tokenizer.ggml.add_bos_token", bool, bos)
    last = metadata.get("tokenizer.ggml.add_eos_token", bool, False)
    spm.add_ends(tokenizer, [special["bos"]] if first else [], [special["eos"]] if last else [])


def _special_tokens(metadata: Metadata) -> dict[str, str]:
    """bos, eos, unk, … -> token, for those that the file names."""
    tokens = metadata.items("tokenizer.ggml.tokens", str)
    keys = {name: f"tokenizer.ggml.{key}_token_id" for name, key in SPECIAL.items()}
    ids = {name: metadata.get(key, int) for name, key in keys.items() if key in metadata}
    if outside := [name for name, index in ids.items() if not 0 <= index < len(tokens)]:
        raise CheckpointError(
            f"{metadata.path}: {keys[outside[0]]} is outside of the vocabulary", "fetch it again"
        )
    return {name: tokens[index] for name, index in ids.items()}


def _vocabulary(metadata: Metadata) -> dict[str, int]:
    return _unique(metadata, metadata.items("tokenizer.ggml.tokens", str))


def _unique(metadata: Metadata, tokens: list[str]) -> dict[str, int]:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):  # a token's place in the list is its id
        raise CheckpointError(f"{metadata.path}: its vocabulary holds a token twice")
    return vocabulary
