"""Names of schemes in plain words, for those who do not read the short ones."""

from llmkg_lab.scheme import BITS, FLOATS, Budget, Scheme

METHODS = {"eq": "channels equalized", "mse": "scales searched", "gptq": "calibrated"}


def plain(scheme: str) -> str:
    """A scheme in words: int4-s16-gptq-e8b64sym is "4 bits, calibrated, table 8 bits"."""
    parsed = Scheme.parse(scheme)
    if parsed.base in FLOATS:
        return f"{8 * FLOATS[parsed.base]}-bit floats"
    if parsed.budget:
        words = [_budget(parsed.budget)]
    else:
        words = [f"{BITS[parsed.base]} bits"]
        words += [METHODS[parsed.method]] if parsed.method in METHODS else []
    words += ["distilled"] if parsed.distilled else []
    words += ["products in integers"] if parsed.dynamic else []
    words += [f"blocks of {parsed.block_size}"] if parsed.block_size != 32 else []
    words += [f"table {parsed.table_bits} bits"] if parsed.table_bits else []
    return ", ".join(words)


def _budget(budget: Budget) -> str:
    if budget.unit == "mb":
        return f"mixed widths in {budget.amount:g} MB"
    return f"mixed widths, {budget.amount:g} bits per weight"
