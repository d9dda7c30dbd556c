"""A fast tokenizer rebuilt from a GGUF file's metadata.

GGUF keeps a tokenizer's vocabulary and names its algorithm; the algorithm's fixed parts
(how text is split before the merges) are known by that name, as in llama.cpp.
"""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from llmkg_lab.checkpoint.base import CheckpointError

# llama.cpp's token types
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
SPACE = "▁"  # how SentencePiece writes a space


def build(path: Path, metadata: dict) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json. Raises CheckpointError on unknown kinds."""
    kind = metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece, "bert": _word_piece}
    if kind not in builders:
        raise CheckpointError(
            f"{path}: tokenizer of the kind {kind!r}", f"supported are {', '.join(builders)}"
        )
    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = builders[kind](path, tokens, metadata)
    if kind != "bert":
        _add_special(tokenizer, tokens, metadata)
        _add_bos(tokenizer, tokens, metadata, default=kind == "llama")
    config = _config(tokens, metadata)
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False).encode(),
    }


def _byte_level(path: Path, tokens: list[str], metadata: dict) -> Tokenizer:
    """Byte-level BPE (GPT-2)."""
    split = metadata.get("tokenizer.ggml.pre", "default")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    splits = {
        "default": byte_level,
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence([digits, byte_level]),
    }
    if split not in splits:
        raise CheckpointError(
            f"{path}: pre-tokenizer {split!r}", f"supported are {', '.join(splits)}"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(_vocabulary(tokens), merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = splits[split], decoders.ByteLevel()
    return tokenizer


def _sentencepiece(path: Path, tokens: list[str], metadata: dict) -> Tokenizer:
    """SentencePiece's BPE with byte fall-back (Llama 1 and 2, TinyLlama)."""
    vocabulary = _vocabulary(tokens)
    types = metadata["tokenizer.ggml.token_type"]
    unknown = next(
        (token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None
    )
    scores = metadata["tokenizer.ggml.scores"]
    merges = _merges(vocabulary, scores)
    model = models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a token together of two others, the best-scored tokens first.

    SentencePiece stores scores and no merges: it joins the pair whose result scores best.
    """
    found = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                rank = (-scores[index], vocabulary[left], vocabulary[right])
                found.append((rank, (left, right)))
    return [merge for _, merge in sorted(found)]


def _word_piece(path: Path, tokens: list[str], metadata: dict) -> Tokenizer:
    """BERT's WordPiece, uncased; GGUF marks a word's start where BERT marks its inside."""
    types = metadata["tokenizer.ggml.token_type"]
    vocabulary = {}
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        special = kind in (CONTROL, UNKNOWN)
        word = token if special else token.removeprefix(SPACE)
        inside = not special and not token.startswith(SPACE)
        vocabulary[f"##{token}" if inside else word] = index
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.add_special_tokens(["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"])
    return tokenizer


def _add_special(tokenizer: Tokenizer, tokens: list[str], metadata: dict) -> None:
    for token, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True):
        if kind in (CONTROL, UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])


def _add_bos(tokenizer: Tokenizer, tokens: list[str], metadata: dict, *, default: bool) -> None:
    if not metadata.get("tokenizer.ggml.add_bos_token", default):
        return
    index = metadata["tokenizer.ggml.bos_token_id"]
    bos = tokens[index]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, index)]
    )


def _config(tokens: list[str], metadata: dict) -> dict:
    config: dict = {"tokenizer_class": "PreTrainedTokenizerFast"}
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for key, name in names.items():
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            config[f"{name}_token"] = tokens[index]
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
