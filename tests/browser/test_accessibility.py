"""The page by keyboard and for screen readers, wide and on a phone, light and dark."""

import pytest
from support.bundles import BUILT
from support.lab_browser import CHROMIUM

from llmkg_lab.base import paths

AXE = paths.ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def check(page):
    """Nobody is shut out, and nothing sticks out, in what is shown now."""
    if AXE.is_file():
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run().then(({ violations }) => violations)")
        assert not [(v["id"], [node["html"] for node in v["nodes"]]) for v in found]
    assert page.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_is_for_everybody(page, server, width, theme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    page.goto(f"{server.address}?worker=none")
    page.wait_for_function("document.querySelectorAll('#model option').length")
    check(page)
    while page.evaluate("document.activeElement.id") != "load":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'question'")  # where one goes on
    check(page)
    page.keyboard.type("5 77 3")
    page.keyboard.press("Shift+Enter")  # a new line, not yet sent
    page.keyboard.type("130")
    page.keyboard.press("Enter")
    page.wait_for_function("/tokens; the first/.test(document.querySelector('#status').innerText)")
    asked = page.get_by_role("log", name="Conversation").inner_text()
    assert asked.startswith("5 77 3\n130")
    assert page.get_by_role("textbox", name="Your message").input_value() == ""
    page.get_by_text("Sampling").click()
    page.get_by_text("This device").click()
    check(page)
    server.fault = "missing"
    page.evaluate("navigator.storage.getDirectory().then((root) => root.remove?.())")
    page.goto(f"{server.address}?worker=none&store=none")
    page.wait_for_function("document.querySelectorAll('#model option').length")
    page.click("#load")
    page.get_by_role("alert").wait_for()
    assert "the server has no" in page.get_by_role("alert").inner_text()
    check(page)
