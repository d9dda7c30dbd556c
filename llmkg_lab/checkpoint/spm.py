"""SentencePiece's BPE with byte fall-back (Llama 1 and 2, TinyLlama) as a fast tokenizer.

As SentencePiece and llama.cpp run it: a space is put before each stretch of text. transformers'
LlamaTokenizer puts one only where the text has none, and by default none behind a special token.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # types of tokens, as in GGUF
SPACE = "▁"  # how SentencePiece writes a space
CUTS = 1 << 27  # characters that may be looked at to find merges; Llama's 32,000 tokens take 2^20


def bpe(
    tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int], *, prefix: bool
) -> Tokenizer:
    """The tokenizer of a vocabulary. prefix: whether a space is put before a text."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            merges(vocabulary, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    add_special(tokenizer, tokens, kinds)
    return tokenizer


def merges(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return every way to put a token together of two others, the best-scored tokens first.

    SentencePiece stores scores and no merges: it joins the pair whose result scores best.
    Raises ValueError on tokens so long that this would not end.
    """
    if sum(len(token) ** 2 for token in vocabulary) > CUTS:
        raise ValueError("its tokens are too long")
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
