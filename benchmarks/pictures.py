"""The pictures of the docs: reports, the list of models and the explorer, as Chromium shows them.

    python -m benchmarks.pictures OUTPUTS FOLDER [EXPLORER]

OUTPUTS: the folder that `make run` filled. FOLDER: where the pictures go, such as docs/img.
EXPLORER: the address of a running `make app`; it is left out where none is given. Each is taken at
1400 and at 390 pixels, in the light and in the dark, and stored with 128 colours.
"""

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console

from llmkg_lab.cli import app, console

SIZES = {1400: 1000, 390: 844}  # width, height
REPORTS = {
    "report": "smollm/smollm2_135m_instruct/report.html",
    "report-embedder": "minilm/all_minilm_l6_v2/report.html",
}
TERMINAL = """<meta name="viewport" content="width=device-width"><style>
:root { color-scheme: light dark } pre { font: 13px/1.3 monospace; overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } }</style>"""
COLORS = 128


def main(outputs: str, folder: str, explorer: str = "") -> None:
    """Take all pictures, NAME-WIDTH-light.png and NAME-WIDTH-dark.png."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        addresses = dict(_addresses(Path(outputs).resolve(), Path(scratch), explorer))
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for name, address in addresses.items():
            for width, height in SIZES.items():
                for scheme in ("light", "dark"):
                    view = {"width": width, "height": height}
                    page = browser.new_page(viewport=view, color_scheme=scheme)
                    _take(page, address, Path(folder) / f"{name}-{width}-{scheme}.png")
                    page.close()
        browser.close()


def _addresses(outputs: Path, scratch: Path, explorer: str) -> Iterator[tuple[str, str]]:
    for name, report in REPORTS.items():
        yield name, (outputs / report).as_uri()
    for name in ("list", "schemes"):
        path = scratch / f"{name}.html"
        options = ["--out", str(outputs)]
        path.write_text(_printed([name, *options]))
        yield name, path.as_uri()
    if explorer:
        yield "explore", explorer


def _printed(arguments: list[str]) -> str:
    """What a command prints, as a page."""
    with Path(os.devnull).open("w") as nowhere:
        console.out = Console(record=True, width=130, file=nowhere)
        app(arguments, standalone_mode=False)
    printed = console.out.export_html(inline_styles=True, code_format="{code}")
    return f"<!DOCTYPE html>{TERMINAL}<body><pre>{printed}</pre></body>"


def _take(page: Page, address: str, path: Path) -> None:
    page.goto(address)
    page.wait_for_load_state("networkidle")
    store(page.screenshot(), path)


def store(screenshot: bytes, path: Path) -> None:
    """Write a PNG with few colours."""
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
