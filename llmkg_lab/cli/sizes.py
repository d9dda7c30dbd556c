"""Sizes as people write them."""

import re

from llmkg_lab.base.errors import LabError


def nbytes(option: str, text: str) -> int:
    """Bytes of a size such as 500MB. Raises LabError, which names the option, on anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise LabError(f"{option} {text!r} is not a size", "give it as in 500MB or 2GB")
    return int(float(match[1]) * 1000 ** " KMG".index(match[2].upper() or " "))
