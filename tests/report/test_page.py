"""The page of a report: it opens anywhere, and its figures are seen by all."""

import re
from itertools import combinations

import nbformat
import pytest
from matplotlib.colors import to_rgb
from nbformat import v4
from support.lab_browser import browser, needs_chromium

from llmkg_lab.report import figures, page, tables
from llmkg_lab.scheme import PRESETS

SCHEMES = (
    *PRESETS,
    *(
        "fp32",
        "fp16",
        "int8-rtn",
        "int8-dyn",
        "int4-rtn",
        "int4-e4",
        "int4-b64",
        "int4-gptq",
        "int4-eq",
    ),
    *("int4-gptq-dwq", "int4-s16-gptq-e8b64sym", "int4-s16-gptq-dwq-e8b64sym", "budget-100mb"),
)


@pytest.fixture(scope="module")
def notebook():
    data, metadata = figures.layers([4, 8], [1, 2], [64, 128])._repr_mimebundle_()
    headline = f'<div class="{page.HEADLINE}"><h2>Tiny: pass</h2></div>'
    widgets = {"application/vnd.jupyter.widget-state+json": {"version_major": 2, "state": {}}}
    return nbformat.from_dict(
        v4.new_notebook(
            metadata={"widgets": widgets},
            cells=[
                v4.new_markdown_cell("# A family\n\nIt costs $5 or `$x$`."),
                v4.new_code_cell(
                    "secret()", outputs=[v4.new_output("display_data", {"text/html": headline})]
                ),
                v4.new_code_cell(
                    "", outputs=[v4.new_output("display_data", data, metadata=metadata)]
                ),
            ],
        )
    )


@pytest.mark.slow
def test_a_page_asks_no_other_host_and_begins_with_the_verdict(notebook):
    html = page.render(notebook, "tiny")
    assert not re.findall(r"<script[^>]*src|<link|@import|url\(|(?:src|href)=.?https?:", html)
    assert re.search('<meta [^>]*name="viewport"', html)
    assert "prefers-color-scheme: dark" in html
    assert html.index("Tiny: pass") < html.index("A family")
    assert "secret" not in html


def test_a_figure_is_drawn_in_both_forms_and_said_in_words(notebook):
    (output,) = notebook.cells[-1].outputs
    assert {"image/svg+xml", "image/png"} <= set(output.data)
    assert "4 to 8 query heads" in output.data["text/plain"]
    assert re.search(r'<img alt="[^"]*4 to 8 query heads', page.render(notebook, "tiny"))


def test_schemes_are_told_apart_by_colour():
    colors = {name: to_rgb(figures.color(name)) for name in SCHEMES}
    for one, other in combinations(SCHEMES, 2):
        distance = sum(abs(a - b) for a, b in zip(colors[one], colors[other], strict=True))
        assert distance > 0.1, (one, other)


@needs_chromium
def test_a_page_is_read_on_a_phone_and_in_the_dark(notebook, tmp_path):
    """Only what scrolls by itself is wider than 390 px; the first screen has the verdict."""
    columns = ["KL mean, nats", "perplexity ratio on other text", "why", *"abcdefgh"]
    wide = tables.rows_table([{"scheme": "balanced"} | dict.fromkeys(columns, "0.0123 – 0.0456")])
    outputs = [v4.new_output("display_data", {"text/html": wide.data})]
    cells = [*notebook.cells, v4.new_code_cell("", outputs=outputs)]
    content = page.render(nbformat.from_dict(v4.new_notebook(cells=cells)), "tiny")
    (tmp_path / "report.html").write_text(content)
    with browser(tmp_path / "profile", width=390, height=700) as seen:
        for scheme in ("light", "dark"):
            seen.emulate_media(color_scheme=scheme)
            seen.goto(f"file://{tmp_path / 'report.html'}")
            assert seen.evaluate("document.documentElement.scrollWidth") <= 390
            verdict = seen.locator(f".{page.HEADLINE} h2").bounding_box()
            assert verdict["y"] + verdict["height"] < 700
            assert verdict["x"] + verdict["width"] <= 390
            styles = "(e => { const s = getComputedStyle(e); return [s.color, s.backgroundColor] })"
            ink, paper = (
                [int(part) for part in re.findall(r"\d+", color)[:3]]
                for color in seen.evaluate(f"{styles}(document.body)")
            )
            assert sum(ink) < sum(paper) if scheme == "light" else sum(ink) > sum(paper)
            assert abs(sum(ink) - sum(paper)) > 450
        assert not [address for address in seen.strangers if not address.startswith("file:")]
