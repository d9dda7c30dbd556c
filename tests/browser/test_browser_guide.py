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


def test_a_quota_of_50_mb_costs_only_the_second_visit(make_artifact, tmp_path):
    made = bundle(make_artifact("smollm2", "int4-rtn"), tmp_path / "smollm2")  # of 100 MB
    script = """async () => {
      const { load } = await import("./llmkg-lab.js");
      const model = await load("./", { threads: 2 });
      const found = { fetched: model.choice.loaded.fetched, store: model.choice.loaded.store };
      const options = { temperature: 0, max_tokens: 5 };
      found.text = "";
      for await (const piece of model.generate("The capital of France is", options)) {
        found.text += piece;
      }
      model.dispose();
      return found;
    }"""
    with serving({}, made) as server, browser(tmp_path / "chromium") as page:
        page.goto(f"{server.address}?worker=none")
        session = page.context.new_cdp_session(page)
        limit = {"origin": server.address.rstrip("/"), "quotaSize": 50_000_000}
        session.send("Storage.overrideQuotaForOrigin", limit)
        first, second = page.evaluate(script), page.evaluate(script)
    assert "Paris" in first["text"]
    assert second["text"] == first["text"]
    assert first["store"] == "opfs"
    assert 50_000_000 < second["fetched"] < first["fetched"]  # what there was room for is kept
