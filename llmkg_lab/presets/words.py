"""Schemes in plain words, for those who do not read the short names."""

from llmkg_lab.scheme import BITS, FLOATS, Budget, Scheme

METHODS = {
    "rtn": "rounded to nearest",
    "eq": "channels equalized",
    "mse": "scales searched",
    "gptq": "calibrated",
}


def plain(scheme: Scheme) -> str:
    """Say a scheme in words: int4-s16-gptq-e8b64sym is "4 bits, calibrated, table 8 bits"."""
    if scheme.base in FLOATS:
        return f"{8 * FLOATS[scheme.base]}-bit floats"
    if scheme.budget:
        words = [_budget(scheme.budget)]
    else:
        words = [f"{BITS[scheme.base]} bits", METHODS[scheme.method]]
    words += ["distilled"] if scheme.distilled else []
    words += ["products in integers"] if scheme.dynamic else []
    words += [f"blocks of {scheme.block_size}"] if scheme.block_size != 32 else []
    words += [f"table {scheme.table_bits} bits"] if scheme.table_bits else []
    return ", ".join(words)


def explained(scheme: Scheme) -> str:
    """Say a scheme in words, and by its recipe where it was asked for by a preset."""
    words = plain(scheme)
    return f"{scheme.recipe}: {words}" if scheme.preset else words


def _budget(budget: Budget) -> str:
    if budget.unit == "mb":
        return f"mixed widths in {budget.amount:g} MB"
    return f"mixed widths, {budget.amount:g} bits per weight"


PARTS = (  # of a recipe's name, in its order
    ("fp32, fp16", "floating point; fp16 is computed in float32"),
    ("int8, int4", "integer codes in blocks of 32 along a row, with zero points"),
    ("rtn", "rounded to nearest: seconds, no text; what a recipe does that says nothing else"),
    ("b64, b128", "larger blocks: fewer scales, more error"),
    ("sym", "no zero points"),
    ("s16", "scales stored as float16"),
    ("eq", "channels equalized first: the same function, easier to quantize, no text needed"),
    ("mse", "and each block's scale searched for the least squared error"),
    ("gptq", "and the codes solved on calibration text"),
    ("dwq", "and the scales trained on the whole model's predictions: minutes more"),
    ("dyn", "of encoders: products in integers, activations rounded with one scale per token"),
    ("e4, e8, e8b64sym", "bits (and blocks) of the embedding table"),
    (
        "budget:100MB, 5.2bpw",
        "each matrix of a decoder at the width that it earns, in so many bytes or bits per weight",
    ),
)
