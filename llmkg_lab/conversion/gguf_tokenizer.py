"""A tokenizer.json as GGUF's metadata: the way back is ``checkpoint.gguf_tokenizer``.

llama.cpp reads no tokenizer.json: it knows a few algorithms by name. One that it
would not run exactly is refused, because it would tokenize wrongly without a word.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from llmkg_lab.checkpoint.gguf_tokenizer import SPECIAL
from llmkg_lab.checkpoint.spm import SPACE
from llmkg_lab.models.base import UnsupportedError

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
SPLITS = {"gpt-2": [BYTE_LEVEL], "smollm": [DIGITS, BYTE_LEVEL]}  # llama.cpp's names for them


@dataclass(frozen=True)
class Source:
    """tokenizer.json, parsed and as a working tokenizer, and tokenizer_config.json."""

    spec: dict
    core: Tokenizer
    config: dict
    rows: int  # of the embedding table, which may be more than there are tokens

    @cached_property
    def tokens(self) -> list[str]:
        """Tokens by id; ids without one get a name that no text holds."""
        names = {index: token for token, index in self.core.get_vocab(True).items()}
        if max(names, default=0) >= self.rows:
            raise UnsupportedError(
                f"the tokenizer has the id {max(names)}, the embedding table {self.rows} rows",
                "tokenizer.json and weights are of different models",
            )
        return [names.get(index, f"[PAD{index}]") for index in range(self.rows)]

    @cached_property
    def kinds(self) -> list[int]:
        """GGUF's token types by id."""
        used = self.core.get_vocab(True)
        kinds = [TokenType.NORMAL if token in used else TokenType.UNUSED for token in self.tokens]
        if self.spec["model"].get("byte_fallback"):
            for byte in range(256):
                kinds[used[f"<0x{byte:02X}>"]] = TokenType.BYTE
        for index, token in self.core.get_added_tokens_decoder().items():
            kinds[index] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
        if (unknown := self.spec["model"].get("unk_token")) in used:
            kinds[used[unknown]] = TokenType.UNKNOWN
        return [int(kind) for kind in kinds]

    def special_id(self, name: str) -> int | None:
        """The id of bos, eos, unk, …, None where the model has none."""
        token = self.config.get(f"{name}_token")
        return self.core.token_to_id(token["content"] if isinstance(token, dict) else token or "")


def add_tokenizer(writer: GGUFWriter, sidecars: dict[str, bytes], rows: int) -> None:
    """Put the tokenizer and its chat template into the file; "no_vocab" where there is none.

    sidecars: as ``Checkpoint.sidecars`` has them. rows: of the embedding table.
    Raises UnsupportedError on a tokenizer that llama.cpp does not run as it is.
    """
    if "tokenizer.json" not in sidecars:
        writer.add_tokenizer_model("no_vocab")
        return
    content = sidecars["tokenizer.json"]
    config = json.loads(sidecars.get("tokenizer_config.json", b"{}"))
    core = Tokenizer.from_buffer(content)
    core.no_truncation()
    source = Source(json.loads(content), core, config, rows)
    _writer_of(source.spec)(writer, source)
    _add_special(writer, source)
    if template := _chat_template(config):
        writer.add_chat_template(template)


def _writer_of(spec: dict) -> Callable[[GGUFWriter, Source], None]:
    model = spec["model"]
    if model["type"] == "WordPiece":
        return _add_word_piece
    if model["type"] == "BPE":
        return _add_sentencepiece if model.get("byte_fallback") else _add_byte_level
    raise UnsupportedError(
        f"GGUF export of a tokenizer of the kind {model['type']}",
        "supported are byte-level BPE, Llama's SentencePiece BPE and WordPiece",
    )


def _add_byte_level(writer: GGUFWriter, source: Source) -> None:
    """GPT-2's BPE over bytes, told apart by how a text is split before the merges."""
    split = _steps(source.spec["pre_tokenizer"], "pretokenizers")
    known = [name for name, steps in SPLITS.items() if _alike(split, steps)]
    if not known or source.spec["normalizer"]:
        raise UnsupportedError(
            "GGUF export of a byte-level tokenizer that splits texts in its own way",
            f"supported are the ways of {', '.join(SPLITS)}",
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(known[0])
    writer.add_token_list(source.tokens)
    writer.add_token_types(source.kinds)
    writer.add_token_merges([" ".join(pair) for pair in _merges(source.spec)])
    writer.add_add_space_prefix(False)


def _add_sentencepiece(writer: GGUFWriter, source: Source) -> None:
    """SentencePiece's BPE with byte fall-back."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(source.tokens)
    writer.add_token_scores(_scores(source))
    writer.add_token_types(source.kinds)
    writer.add_add_space_prefix(_space_before(source.spec))


def _scores(source: Source) -> list[float]:
    """SentencePiece's scores of the tokens: the earlier a token is merged, the higher.

    tokenizer.json keeps merges in the place of scores. Only their order counts; numbered like
    this, they are the numbers of Llama's own tokenizer.model.
    """
    made = dict.fromkeys("".join(pair) for pair in _merges(source.spec))
    normal = {t for t, kind in zip(source.tokens, source.kinds, strict=True) if kind == 1}
    rest = [token for token in source.tokens if token in normal and token not in made]
    scores = {token: -float(rank) for rank, token in enumerate([*made, *rest])}
    return [scores.get(token, 0.0) for token in source.tokens]


def _space_before(spec: dict) -> bool:
    """Whether a space is put before a text: said by a normalizer or, newer, by a pre-tokenizer."""
    normalizers = _steps(spec["normalizer"], "normalizers")
    splits = _steps(spec["pre_tokenizer"], "pretokenizers")
    kinds = {step["type"] for step in [*normalizers, *splits]}
    if kinds - {"Prepend", "Replace", "Metaspace"} or not kinds & {"Replace", "Metaspace"}:
        raise UnsupportedError(
            f"GGUF export of a SentencePiece tokenizer with the steps {', '.join(sorted(kinds))}",
            "supported is one that only marks spaces, as Llama's",
        )
    marked = any(step.get("prepend_scheme", "never") != "never" for step in splits)
    return marked or "Prepend" in kinds


def _add_word_piece(writer: GGUFWriter, source: Source) -> None:
    """BERT's WordPiece, lower-cased and without accents, as llama.cpp runs every one."""
    normalizer = source.spec["normalizer"] or {}
    if not normalizer.get("lowercase") or normalizer.get("strip_accents") is False:
        raise UnsupportedError(
            "GGUF export of a WordPiece tokenizer that keeps upper case or accents",
            "llama.cpp lower-cases every text; use the ONNX artifact",
        )
    typed = zip(source.tokens, source.kinds, strict=True)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token if kind == 5 else _phantom(token) for token, kind in typed])
    writer.add_token_types(source.kinds)
    if (first := source.special_id("cls")) is not None:
        writer.add_bos_token_id(first)  # what llama.cpp puts before a text


def _phantom(token: str) -> str:
    """GGUF marks the start of a word, BERT its inside; [CLS] and the like stay as they are."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix("##") if token.startswith("##") else f"{SPACE}{token}"


def _add_special(writer: GGUFWriter, source: Source) -> None:
    for name, key in SPECIAL.items():
        if (index := source.special_id(name)) is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", index)
    if source.spec["model"]["type"] == "BPE":  # WordPiece always has its ends
        ids = source.core.encode("a").ids
        writer.add_add_bos_token(ids[0] == source.special_id("bos"))
        writer.add_add_eos_token(ids[-1] == source.special_id("eos"))


def _chat_template(config: dict) -> str | None:
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _merges(spec: dict) -> list[list[str]]:
    """Pairs of tokens; older files write them as one string."""
    merges = spec["model"]["merges"]
    return [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in merges]


def _steps(spec: dict | None, inside: str) -> list[dict]:
    """A normalizer or pre-tokenizer as a list, whether it is a sequence, one step or none."""
    if not spec:
        return []
    return spec[inside] if spec["type"] == "Sequence" else [spec]


def _alike(steps: list[dict], wanted: list[dict]) -> bool:
    """Whether each step has what is wanted of it; a file may omit use_regex, which is then true."""
    pairs = list(zip(steps, wanted, strict=False))
    return len(steps) == len(wanted) and all(
        {"use_regex": True} | s | w == {"use_regex": True} | s for s, w in pairs
    )
