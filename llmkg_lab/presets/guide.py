"""The tables of docs/guide/schemes.md: ``python -m llmkg_lab.presets.guide docs/guide/schemes.md``.

They are what ``llmkg-lab schemes`` shows; a test compares.
"""

import re
import sys
from pathlib import Path

from llmkg_lab.presets import RULES, fact_of, kinds, recipe_of
from llmkg_lab.presets.words import PARTS, plain
from llmkg_lab.scheme import Scheme


def tables() -> dict[str, str]:
    """The tables in Markdown, by name."""
    return {"presets": _presets(), "parts": _parts()}


def filled(page: str) -> str:
    """A page with each table between its marks."""
    for name, table in tables().items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        page = re.sub(pattern, rf"\g<1>{table}\n\g<2>", page, count=1, flags=re.DOTALL)
    return page


def _presets() -> str:
    lines = [
        "| preset | of | is | MB | loss | on other text |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    for name, kind in kinds().items():
        for preset in RULES:
            if preset == "fast":  # another one on each processor
                lines.append(f"| `fast` | {name} | see `llmkg-lab device --measure` | | | |")
                continue
            recipe, fact = recipe_of(preset, name), fact_of(preset, name)
            words = f"`{recipe}`: {plain(Scheme.parse(recipe))}"
            figures = "| | |"
            if fact:
                value, low, high = fact.loss
                figures = f"{fact.megabytes:.1f} | {value:.1f} % ({low:.1f} to {high:.1f}) |"
                figures += "" if fact.elsewhere is None else f" {fact.elsewhere:.1f} %"
            lines.append(f"| `{preset}` | {kind.name} | {words} | {figures} |")
    return "\n".join(lines)


def _parts() -> str:
    lines = ["| part | means |", "| --- | --- |"]
    for part, meaning in PARTS:
        names = ", ".join(f"`{name}`" for name in part.split(", "))
        lines.append(f"| {names} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
