"""Log-probabilities as OpenAI writes them, for tokens that may be parts of characters."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from tokenizers import pre_tokenizers

from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.serve.engine.continuation import Score

BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenTexts:
    """What single tokens stand for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._core = tokenizer.core
        decoder = tokenizer.core.decoder
        self._is_byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()

    def bytes(self, token: int) -> bytes:
        """The bytes of a token, those of a part of a character too."""
        text = self._core.id_to_token(token) or ""
        if self._is_byte_level:
            letters = _byte_letters()
            if all(letter in letters for letter in text):
                return bytes(letters[letter] for letter in text)
        elif match := BYTE.fullmatch(text):
            return bytes([int(match[1], 16)])
        return text.replace("▁", " ").encode()

    def text(self, token: int) -> str:
        """A token as text; bytes that make no character are written as OpenAI does."""
        content = self.bytes(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def chat(self, scores: Sequence[Score]) -> dict[str, Any]:
        """The ``logprobs`` of a chat's choice."""
        content = [
            {**self._entry(s.token, s.logprob), "top_logprobs": [self._entry(*t) for t in s.top]}
            for s in scores
        ]
        return {"content": content, "refusal": None}

    def completion(self, scores: Sequence[Score], offset: int) -> dict[str, Any]:
        """The ``logprobs`` of a completion's choice; ``offset``: characters of it before them."""
        texts = [self.text(score.token) for score in scores]
        offsets = [offset + sum(map(len, texts[:i])) for i in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [{self.text(t): p for t, p in score.top} for score in scores],
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.text(token), "logprob": logprob, "bytes": list(self.bytes(token))}


@cache
def _byte_letters() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    letters |= {chr(256 + i): byte for i, byte in enumerate(others)}
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters
