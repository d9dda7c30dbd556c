"""What runs a model, chosen by measurement; each feature of the device switched off in turn."""

import json
import re

import numpy as np
import onnxruntime
import pytest
from support.bundles import BUILT, copied, make_bundle, numbers_llama
from support.lab_browser import CHROMIUM
from support.page import GREEDY, IDS, continued, generate, greedy

from llmkg_lab.conversion.to_web import FILE

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
TIMING = r"[\d.]+ ms per token with (\d) threads?"
MEASURED = rf"{TIMING}, measured in ([\d.]+) s"
ROOMY = 1 << 19  # tokens, of 2.2 GB of keys and values, whose memory is never touched
TOO_LONG = 1 << 24  # tokens, of keys and values in more memory than a page gets


@pytest.fixture(scope="module")
def plain_bundle(tmp_path_factory):
    """A decoder in float16, which the engine does not compute."""
    folder = tmp_path_factory.mktemp("plain")
    return make_bundle(numbers_llama(folder / "llama", num_hidden_layers=2), "fp16", folder)


def continued_by_graph(bundle, count):
    """What ONNX Runtime on this machine makes of the prompt, each time from its beginning."""
    manifest = json.loads((bundle / FILE).read_text())
    session = onnxruntime.InferenceSession(bundle / manifest["model"])
    empty = {
        value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past")
    }
    ids = list(IDS)
    for _ in range(count):
        feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        (logits,) = session.run(["logits"], {**feeds, **empty, "num_logits_to_keep": np.array(1)})
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(IDS) :]


def test_threads_are_measured_once_and_remembered(page):
    first = generate(page)
    taken, seconds = re.match(MEASURED, first["why"]).groups()
    assert len(re.findall(TIMING, first["why"])) == 2  # with one thread, and with all
    assert float(seconds) < 0.5
    assert first["threads"] == int(taken)
    second = generate(page)
    assert "remembered" in second["why"]
    assert (second["threads"], second["msPerToken"]) == (first["threads"], first["msPerToken"])
    assert second["tokens"] == first["tokens"]
    page.evaluate('localStorage.setItem(Object.keys(localStorage)[0], \'{"threads": "all"}\')')
    assert re.match(MEASURED, generate(page)["why"])  # what makes no sense is not believed


def test_threads_are_measured_again_when_tokens_take_long(page, native):
    generate(page)
    found = page.evaluate(
        """async ([ids, sampling]) => {
          const { load } = await import("/llmkg-lab.js");
          const [key] = Object.keys(localStorage);
          const earlier = JSON.parse(localStorage.getItem(key));
          localStorage.setItem(key, JSON.stringify({ ...earlier, msPerToken: 1e-6 }));
          const model = await load("/bundles/numbers/");
          const whys = [model.choice.why], answers = [];
          for (let i = 0; i < 3; i++) {
            const tokens = [];
            for await (const token of model.tokens(ids, [], sampling)) tokens.push(token);
            answers.push(tokens);
            whys.push(model.choice.why);
          }
          model.dispose();
          return { whys, answers, kept: JSON.parse(localStorage.getItem(key)) };
        }""",
        [IDS, GREEDY],
    )
    remembered, slow, again, last = found["whys"]
    assert "remembered" in remembered
    assert slow == remembered
    assert re.match(MEASURED, again)
    assert last == again  # once is enough
    assert found["kept"]["msPerToken"] > 1e-3
    assert found["answers"] == [continued(native, greedy, 24)] * 3


def test_what_the_engine_does_not_compute_runs_by_its_graph(page, server, plain_bundle):
    server.bundles["plain"] = plain_bundle
    found = generate(page, bundle="plain")
    assert found["engine"] == "ONNX Runtime, WebAssembly"
    assert "our engine cannot run it" in found["why"]
    wanted = continued_by_graph(plain_bundle, 24)
    assert found["tokens"] == wanted
    again = generate(page, {"threads": 1}, bundle="plain")
    assert (again["tokens"], again["fetched"]) == (wanted, 0)


def test_a_smaller_bundle_stands_in(page, server, numbers_bundle, plain_bundle, tmp_path):
    large = copied(numbers_bundle, tmp_path / "large")
    manifest = json.loads((large / FILE).read_text())
    size = 10 * manifest["bundle_size"]
    changed = {**manifest, "context_length": TOO_LONG, "bundle_size": size}
    (large / FILE).write_text(json.dumps(changed))
    server.bundles |= {"large": large, "plain": plain_bundle}
    wanted = generate(page)["tokens"]
    found = generate(page, {"positions": TOO_LONG}, bundle="large")
    assert found["kind"] == "memory"
    smaller = ["/bundles/large/", "/bundles/numbers"]  # itself is not smaller
    server.asked = 0
    found = generate(page, {"positions": TOO_LONG, "smaller": smaller}, bundle="large")
    assert found["tokens"] == wanted
    assert "more than the 4 GB that WebAssembly has; this is a smaller one" in found["why"]
    (large / FILE).write_text(json.dumps({**changed, "smaller": ["../numbers/"]}))
    found = generate(page, {"positions": TOO_LONG}, bundle="large")
    assert found["tokens"] == wanted


def switched(page, script):
    """A page of the same browser in which ``script`` ran first."""
    other = page.context.new_page()
    other.add_init_script(script)
    other.goto(page.url)
    return other


def test_without_simd_the_page_says_what_it_needs(page):
    other = switched(page, "WebAssembly.validate = () => false")
    found = generate(other)
    other.close()
    assert (found["kind"], found["message"]) == ("unsupported", "this browser has no SIMD")


def test_without_relaxed_simd_the_plain_build_runs(page, native):
    has_none = "const all = WebAssembly.validate; WebAssembly.validate = (code) =>"
    other = switched(page, f"{has_none} all(code) && !code.includes(128)")
    found = generate(other)
    other.close()
    assert found["engine"] == "llmkg-lab, plain SIMD"
    assert found["tokens"] == continued(native, greedy, 24)


def test_a_device_of_little_memory_is_not_asked_for_more(page, server):
    other = switched(
        page, "Object.defineProperty(navigator, 'deviceMemory', { get: () => 1 / 64 })"
    )
    found = generate(other)
    other.close()
    assert found["kind"] == "memory"
    assert "more than half of this device's 0.015625 GB" in found["message"]
    assert server.asked == 0


def test_what_lies_above_two_gigabytes_is_found(page, server, numbers_bundle, native, tmp_path):
    roomy = copied(numbers_bundle, tmp_path / "roomy")
    manifest = json.loads((roomy / FILE).read_text())
    (roomy / FILE).write_text(json.dumps({**manifest, "context_length": ROOMY}))
    server.bundles["roomy"] = roomy
    other = switched(page, "Object.defineProperty(navigator, 'deviceMemory', { get: () => 8 })")
    found = generate(other, {"positions": ROOMY, "threads": 2}, bundle="roomy")
    other.close()
    assert found["tokens"] == continued(native, greedy, 24)
    assert found["bytes"] > 2**31


@pytest.mark.parametrize("missing", ["getDirectory", "createSyncAccessHandle", "caches"])
def test_without_a_store_the_next_one_is_taken(page, server, native, missing):
    files, handles = "StorageManager.prototype", "FileSystemFileHandle.prototype"
    gone = {
        "getDirectory": f"delete {files}.getDirectory;",
        "createSyncAccessHandle": f"delete {handles}.createSyncAccessHandle;",
        "caches": f"delete {files}.getDirectory; delete WorkerGlobalScope.prototype.caches;",
    }
    server.prelude = gone[missing]
    first, second = generate(page), generate(page)
    store = "none" if missing == "caches" else "cache"
    assert (first["store"], second["store"]) == (store, store)
    assert first["tokens"] == second["tokens"] == continued(native, greedy, 24)
    assert (second["fetched"] == 0) == (store == "cache")
