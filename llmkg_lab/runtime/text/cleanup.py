"""Spaces that a tokenizer puts too many, before marks and contractions, taken out of its texts.

WordPiece needs that, since it does not say where words were joined. What tokenizer_config.json says
of it (clean_up_tokenization_spaces) is followed as transformers does.
"""

import tokenizers

# in this order: what one leaves may be the next one's
SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
REACH = max(map(len, SPACED))
FORCED = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


def is_wanted(core: tokenizers.Tokenizer, config: dict) -> bool:
    """Whether texts are to be cleaned up; those of BPE, which knows its spaces, only if forced."""
    if not config.get("clean_up_tokenization_spaces"):
        return False
    return bool(config.get(FORCED)) or not isinstance(core.model, tokenizers.models.BPE)


def cleaned(text: str) -> str:
    """The text without those spaces."""
    for spaced in SPACED:
        text = text.replace(spaced, spaced.strip())
    return text


class CleanUp:
    """The same for a text that comes in pieces.

    Only spaces are ever taken out. So the text may be cut, and its parts cleaned up alone, behind
    as many other characters as a mark reaches, and before a space that ends no quotation mark.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece of the text; return what may be shown by now."""
        if not self._wanted:
            return piece
        self._held += piece
        cut = next((i for i in range(len(self._held), 0, -1) if self._is_cut(i)), 0)
        whole, self._held = self._held[:cut], self._held[cut:]
        return cleaned(whole)

    def flush(self) -> str:
        """The text ended: what was held back."""
        rest, self._held = self._held, ""
        return cleaned(rest)

    def _is_cut(self, i: int) -> bool:
        before, behind = self._held[max(0, i - REACH) : i], self._held[i : i + 1]
        if behind == " " and before[-1] not in " '":
            return True
        return len(before) == REACH and " " not in before
