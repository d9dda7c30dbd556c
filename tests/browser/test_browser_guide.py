"""The lines of docs/guide/browser.md, run as they stand."""

import re

import pytest
from support.bundles import BUILT, serving
from support.lab_browser import CHROMIUM, browser

from llmkg_lab.base import paths
from llmkg_lab.conversion.to_web import bundle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


def test_the_lines_of_the_guide_answer(make_artifact, tmp_path):
    guide = (paths.ROOT / "docs" / "guide" / "browser.md").read_text()
    (code,) = re.findall(r"^```js\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    made = bundle(make_artifact("smollm2", "int4-rtn"), tmp_path / "smollm2")
    script = f"<!doctype html><script type=module>{code}\nwindow.answer = answer;</script>"
    (made / "own.html").write_text(script)
    with serving({}, made) as server, browser(tmp_path / "chromium") as page:
        page.goto(f"{server.address}own.html")
        page.wait_for_function("window.answer")
        answer = page.evaluate("window.answer")
        assert "sky" in answer.lower(), answer
        assert page.strangers == []
