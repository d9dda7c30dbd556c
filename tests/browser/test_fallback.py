"""A model that the browser cannot run, answered by this project's own server."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from support.bundles import BUILT, numbers_llama, serving
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
SCRIPT = """async (server) => {
  const { load } = await import("/llmkg-lab.js");
  const model = await load("/bundles/numbers/", { server, positions: 1 << 24 });
  let text = "";
  const options = { temperature: 0, repetition_penalty: 1, max_tokens: 12 };
  for await (const piece of model.generate("5 77 3 130", options)) text += piece;
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


def test_a_server_answers_where_the_browser_cannot(tmp_path):
    checkpoint = open_checkpoint(numbers_llama(tmp_path / "llama", num_hidden_layers=1))
    artifact = convert(checkpoint, Scheme.parse("int8-rtn"), tmp_path / "artifact")
    made = bundle(artifact, tmp_path / "bundle")
    manifest = json.loads((made / FILE).read_text())  # of a context that no browser has memory for
    (made / FILE).write_text(json.dumps({**manifest, "context_length": 1 << 24}))
    greedy = GenerationConfig(temperature=0, repetition_penalty=1, max_tokens=12)
    wanted = "".join(open_backend(artifact.folder).stream_text("5 77 3 130", greedy))
    with serving({"numbers": made}) as server, browser(tmp_path / "chromium") as page:
        page.goto(f"{server.address}?worker=none")
        with endpoint(artifact.folder, server.address.rstrip("/")) as address:
            found = page.evaluate(SCRIPT, address)
            assert found["text"].strip() == wanted.strip()
            assert found["engine"].startswith("server 127.0.0.1")
            assert "MB, which this browser does not give; so a server answers" in found["why"]
