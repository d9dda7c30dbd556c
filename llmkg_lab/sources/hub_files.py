"""Which files of a Hub repository a conversion needs.

It needs no second copy of the weights, no other framework's, no exports.
"""

import re
from collections.abc import Iterable

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
    "config.json",
    "generation_config.json",
    "modules.json",  # sentence-transformers, down to the next two
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
# one form of weights is enough; the first that is there
WEIGHTS = (
    r"model\.safetensors",
    r"model(-\d{5}-of-\d{5}\.safetensors|\.safetensors\.index\.json)",
    r"pytorch_model\.bin",
    r"pytorch_model(-\d{5}-of-\d{5}\.bin|\.bin\.index\.json)",
)


def weight_files(names: Iterable[str]) -> list[str]:
    """The weights in the best form that the repository has, with their index where sharded."""
    names = sorted(names)
    for pattern in WEIGHTS:
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return found
    return []


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """The tokenizer in all its forms; they are small, and not every repository has the same."""
    return sorted(set(names) & set(TOKENIZER))


def checkpoint_files(names: Iterable[str]) -> list[str]:
    """All that a conversion reads."""
    names = set(names)
    return sorted({*weight_files(names), *tokenizer_files(names), *(names & set(CONFIG))})
