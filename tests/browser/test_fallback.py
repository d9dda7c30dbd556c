"""A model that the browser cannot run, answered by this project's own server; or what it needs."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from support.bundles import BUILT, copied, numbers_llama, serving
from support.lab_browser import CHROMIUM, browser

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import FILE, bundle
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig
from llmkg_lab.scheme import Scheme

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
PROMPT = "5 77 3 130"
GREEDY = {"temperature": 0, "repetition_penalty": 1, "max_tokens": 12}
# of V8: without one of these instructions of the processor it has no SIMD; the second leaves room
# for the weights (3.8 MB), and none for keys and values
LACKING = [
    pytest.param("--no-enable-ssse3", "this browser has no SIMD", id="SIMD"),
    pytest.param(
        "--wasm-max-mem-pages=70",
        r"the model needs \d+ MB, which this browser does not give",
        id="memory",
    ),
]
SCRIPT = """async ([server, prompt, options]) => {
  const { load } = await import("/llmkg-lab.js");
  const model = await load("/bundles/numbers/", { server, positions: 1 << 24 });
  let text = "";
  for await (const piece of model.generate(prompt, options)) text += piece;
  return { text, ...model.choice };
}"""


@contextlib.contextmanager
def endpoint(artifact, origin):
    """``llmkg-lab serve`` with one model, for pages of ``origin``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llmkg_lab.cli", "serve", f"numbers={artifact}"]
    options = ["--port", str(port), "--origin", origin, "--threads", "1", "--context", "128"]
    with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2).close()
                    break
                assert process.poll() is None
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An artifact, its bundle, and what it says to PROMPT."""
    folder = tmp_path_factory.mktemp("fallback")
    checkpoint = open_checkpoint(numbers_llama(folder / "llama", num_hidden_layers=1))
    artifact = convert(checkpoint, Scheme.parse("int8-rtn"), folder / "artifact")
    greedy = GenerationConfig(**GREEDY)
    said = "".join(open_backend(artifact.folder).stream_text(PROMPT, greedy))
    return artifact, bundle(artifact, folder / "bundle"), said.strip()


def test_a_server_answers_where_the_browser_cannot(made, tmp_path):
    artifact, folder, wanted = made
    large = copied(folder, tmp_path / "bundle")
    manifest = json.loads((large / FILE).read_text())  # of a context that no browser has memory for
    (large / FILE).write_text(json.dumps({**manifest, "context_length": 1 << 24}))
    with serving({"numbers": large}) as server, browser(tmp_path / "chromium") as page:
        page.goto(f"{server.address}?worker=none")
        with endpoint(artifact.folder, server.address.rstrip("/")) as address:
            found = page.evaluate(SCRIPT, [address, PROMPT, GREEDY])
    assert found["text"].strip() == wanted
    assert found["engine"].startswith("server 127.0.0.1")
    assert "more than the 4 GB that WebAssembly has; so a server answers" in found["why"]


@pytest.mark.parametrize(("flags", "reason"), LACKING)
def test_the_page_says_what_is_missing_and_asks_the_server(made, tmp_path, flags, reason):
    artifact, folder, wanted = made
    options = {"arguments": [f"--js-flags={flags}"]}
    with serving({"numbers": folder}) as server, browser(tmp_path / "chromium", **options) as page:
        page.goto(f"{server.address}?worker=none")
        page.wait_for_selector("#model option", state="attached")
        page.click("#load")
        page.wait_for_selector("#problem:not([hidden])")
        said = page.inner_text("#problem")
        assert re.match(f"{reason}: .*or a server", said), said
        with endpoint(artifact.folder, server.address.rstrip("/")) as address:
            page.goto(f"{server.address}?worker=none&server={address}")
            page.wait_for_selector("#model option", state="attached")
            page.click("#load")
            page.wait_for_selector("#chat:not([hidden])")
            how = page.inner_text("#how")
            assert re.match(f"Run by server 127.0.0.1.*: {reason}; so a server answers", how), how
            page.click("summary")
            for name, value in GREEDY.items():
                page.fill(f"#{name}", str(value))
            page.fill("#question", PROMPT)
            page.click("#send")
            page.wait_for_selector("#send:visible")
            assert page.inner_text(".assistant").strip() == wanted
        assert server.asked == 0  # no weights, neither time
