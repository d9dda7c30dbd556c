"""The loader, the engine and the page in a real Firefox, whose engine and store are others."""

import pytest
from support.bundles import BUILT
from support.firefox import FIREFOX, firefox
from support.page import continued, generate, greedy

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(FIREFOX is None, reason="no Firefox is installed"),
]


def test_firefox_writes_the_same_tokens(server, native, tmp_path):
    wanted = continued(native, greedy, 24)
    with firefox(tmp_path / "profile") as page:
        page.goto(f"{server.address}?worker=none")
        first = generate(page)
        assert first.get("tokens") == wanted, first
        assert first["isolated"]
        assert "ms per token" in first["why"]
        asked = server.asked
        second = generate(page)
        assert (second["tokens"], second["fetched"], server.asked) == (wanted, 0, asked)
        found = generate(page, {"relaxedSimd": False, "threads": 2})
        assert (found["tokens"], found["engine"]) == (wanted, "llmkg-lab, plain SIMD")
        server.fault = "wrong"
        assert generate(page, {"store": "none"})["kind"] == "damaged"
        server.fault = None


def test_the_page_chats_in_firefox(server, tmp_path):
    with firefox(tmp_path / "profile") as page:
        page.goto(server.address)
        page.wait_for("document.querySelectorAll('#model option').length")
        page.evaluate("() => document.querySelector('#load').click()")
        page.wait_for("!document.querySelector('#chat').hidden")
        page.evaluate(
            """() => {
              document.querySelector("#question").value = "5 77 3 130";
              document.querySelector("#max_tokens").value = "8";
              document.querySelector("#ask").requestSubmit();
            }"""
        )
        page.wait_for("/8 tokens/.test(document.querySelector('#status').textContent)")
        answer = page.evaluate("() => document.querySelector('.message.assistant').textContent")
        assert len(answer.split()) == 8
        problem = page.evaluate("() => document.querySelector('#problem').textContent")
        assert problem == ""
