"""SentencePiece's BPE with byte fall-back (Llama 1 and 2, TinyLlama) as a fast tokenizer.

Not left to transformers: where a folder names no tokenizer class, it forgets the space before
the first word and the BOS token without a word.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from llmkg_lab.checkpoint.base import CheckpointError, read_json

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens, the same numbers in GGUF
SPACE = "▁"  # how SentencePiece writes a space
BPE = 2  # of SentencePiece's model types


def bpe(
    tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, prefix: bool
) -> Tokenizer:
    """The tokenizer of a vocabulary. prefix: whether a space is put before a text."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    merges = _merges(vocabulary, scores)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    add_special(tokenizer, tokens, kinds)
    return tokenizer


def _merges(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to put a token together of two others, the best-scored tokens first.

    SentencePiece stores scores and no merges: it joins the pair whose result scores best.
    """
    found = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                # of two ways to the same token the longer left part, as transformers has it
                found.append(((-scores[index], index, -cut), (left, right)))
    return [merge for _, merge in sorted(found)]


def add_special(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Keep control tokens and the user's own whole, wherever they stand in a text."""
    typed = list(zip(tokens, kinds, strict=True))
    special = [token for token, kind in typed if kind in (CONTROL, UNKNOWN)]
    own = [token for token, kind in typed if kind == USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in own])


def add_ends(tokenizer: Tokenizer, start: list[str], end: list[str]) -> None:
    """Put the tokens ``start`` before and ``end`` behind each text."""
    if start or end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*start, "$A", *end],
            pair=[*start, "$A", *end, *start, "$B", *end],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in start + end],
        )


def from_model(path: Path, config: dict[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a tokenizer.model, and what tokenizer_config.json should say at least.

    config: tokenizer_config.json as it is, which may add tokens and turn BOS and EOS on or off.
    Raises CheckpointError on models that are not plain BPE, and on broken ones.
    """
    from sentencepiece import sentencepiece_model_pb2  # imports protobuf, and is rarely needed

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        _refuse_other_kinds(path, model)
        tokenizer = _build(model)
        _add_own(path, tokenizer, config)
        trainer = model.trainer_spec
        special = {"bos": trainer.bos_piece, "eos": trainer.eos_piece, "unk": trainer.unk_piece}
        start = [special["bos"]] if config.get("add_bos_token", True) else []
        end = [special["eos"]] if config.get("add_eos_token", False) else []
        add_ends(tokenizer, start, end)
    except CheckpointError:
        raise
    except Exception as error:  # protobuf's and tokenizers' own, which have no common type
        raise CheckpointError(f"{path} makes no tokenizer: {error}", "fetch it again") from error
    return tokenizer, {f"{name}_token": token for name, token in special.items()}


def _refuse_other_kinds(path: Path, model: "ModelProto") -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    changes = normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces
    if trainer.model_type != BPE or not trainer.byte_fallback or changes:
        raise CheckpointError(
            f"{path} is a SentencePiece model of another kind than Llama's",
            "supported is BPE with byte fall-back that leaves a text as it is",
        )


def _build(model: "ModelProto") -> Tokenizer:
    tokens = [piece.piece for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    kinds = [piece.type for piece in model.pieces]
    return bpe(tokens, scores, kinds, prefix=model.normalizer_spec.add_dummy_prefix)


def _add_own(path: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """Tokens that tokenizer_config.json or, before, added_tokens.json adds, as those of a chat."""
    older = path.with_name("added_tokens.json")
    listed = read_json(older) if older.exists() else {}
    added = {index: {"content": token} for token, index in listed.items()}
    added |= {int(index): token for index, token in config.get("added_tokens_decoder", {}).items()}
    for index, token in sorted(added.items()):
        content, special = token["content"], token.get("special", False)
        own = AddedToken(content, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([own])
        if tokenizer.token_to_id(content) != index:
            raise CheckpointError(f"{path}: the added token {content} cannot have the id {index}")
