"""The loader, the engine and the page in a real Chromium, each feature switched off in turn."""

import json
import os
from pathlib import Path

import pytest
from support import native_engine
from support.bundles import BUILT, copied
from support.lab_browser import CHROMIUM
from support.page import GENERATE, GREEDY, IDS, TINY, continued, generate, greedy

from llmkg_lab.conversion.to_web import FILE, WEBGPU
from llmkg_lab.runtime.text.sampling import Sampler

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
UNREGISTER = """async () => {
  for (const worker of await navigator.serviceWorker.getRegistrations()) await worker.unregister();
}"""


def test_tokens_are_those_of_the_same_code_on_this_machine(page, native):
    wanted = continued(native, greedy, 24)
    for options in ({"threads": 2}, {"threads": 1}, {"threads": 2, "relaxedSimd": False}):
        found = generate(page, options)
        assert found["tokens"] == wanted, options
        assert ("relaxed" in found["engine"]) == options.get("relaxedSimd", True)


def test_a_seed_draws_what_it_draws_in_python(page, native):
    for seed in (0, 7, 2**40):
        options = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2}
        wanted = continued(native, Sampler(**options, seed=seed), 24)
        found = generate(page, TINY, {**options, "seed": seed, "max_tokens": 24})
        assert found["tokens"] == wanted


def test_without_isolation_there_is_one_thread(page, server, native):
    server.headers = {"Cache-Control": "no-cache"}
    page.goto(f"{server.address}?worker=none")
    found = generate(page)
    assert (found["isolated"], found["threads"]) == (False, 1)
    assert found["tokens"] == continued(native, greedy, 24)


def test_a_second_visit_asks_for_no_weights(page, server):
    first = generate(page)
    assert first["store"] == "opfs"
    assert server.asked == 4
    second = generate(page)
    assert (second["fetched"], server.asked) == (0, 4)
    assert second["tokens"] == first["tokens"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("missing", "missing"), ("html", "damaged"), ("wrong", "damaged"), ("busy", "network"),
     ("cut", "network")],
)  # fmt: skip
def test_a_bad_server_is_named_and_nothing_of_it_is_kept(page, server, fault, kind):
    server.fault = fault
    found = generate(page)
    assert found["kind"] == kind, found
    assert found["message"]
    server.fault = None
    assert len(generate(page)["tokens"]) == 24


def test_a_file_that_was_not_uploaded_whole_is_damaged(page, server, numbers_bundle, tmp_path):
    server.bundles["short"] = copied(numbers_bundle, tmp_path / "short")
    (piece,) = server.bundles["short"].glob("onnx/*data")
    for size in (9 << 20, 8 << 20):  # within a range, and between two
        os.truncate(piece, size)
        for fault in (None, "ranges"):
            server.fault = fault
            found = generate(page, {"store": "none"}, bundle="short")
            assert (found["kind"], "ends too early" in found["message"]) == ("damaged", True)


@pytest.mark.parametrize("fault", ["ranges", "once", "slow"])
def test_a_line_that_is_merely_bad_is_enough(page, server, fault):
    wanted = generate(page, TINY)["tokens"]
    server.fault, server.asked = fault, 0
    assert generate(page)["tokens"] == wanted


def test_what_was_loaded_before_a_break_is_not_loaded_again(page, server):
    server.fault = "wrong"  # all ranges but the first
    assert generate(page)["kind"] == "damaged"
    server.fault, server.asked = None, 0
    found = generate(page)
    assert server.asked == 3
    assert found["fetched"] < found["bytes"]


def test_bytes_that_changed_in_the_store_are_noticed(page, server):
    wanted = generate(page)["tokens"]
    page.evaluate(
        """async () => {
          const root = await navigator.storage.getDirectory();
          const folder = await root.getDirectoryHandle("llmkg-lab");
          for await (const [name, handle] of folder.entries()) {
            const writer = await handle.createWritable({ keepExistingData: true });
            await writer.write({ type: "write", position: 100, data: new Uint8Array(8) });
            await writer.close();
          }
        }"""
    )
    server.asked = 0
    found = generate(page)
    assert found["tokens"] == wanted
    assert server.asked == 1  # of four ranges, the one that was changed


@pytest.mark.parametrize("store", ["opfs", "cache", "none"])
@pytest.mark.parametrize("quota", [0, 5_000_000])
def test_a_small_quota_costs_only_the_second_visit(page, server, store, quota):
    session = page.context.new_cdp_session(page)
    origin = {"origin": server.address.rstrip("/")}
    session.send("Storage.overrideQuotaForOrigin", {**origin, "quotaSize": quota})
    try:
        assert len(generate(page, {"store": store})["tokens"]) == 24
    finally:
        session.send("Storage.overrideQuotaForOrigin", origin)
        session.detach()


def test_two_tabs_load_once(page, server, numbers_bundle):
    other = page.context.new_page()
    other.goto(f"{server.address}?worker=none")
    start = f"options => {{ window.answer = ({GENERATE})(options) }}"
    server.fault = "slow"
    for tab in (page, other):
        tab.evaluate(start, ["numbers", {"threads": 1}, IDS, GREEDY])
    first, second = (tab.evaluate("() => window.answer") for tab in (page, other))
    other.close()
    assert first["tokens"] == second["tokens"]
    assert server.asked == 4


def test_loading_and_writing_can_be_cancelled(page, server):
    server.fault = "slow"
    found = page.evaluate(
        """async () => {
          const { load } = await import("/llmkg-lab.js");
          const kinds = [];
          for (const wait of [0, 50, 700]) {
            const controller = new AbortController();
            setTimeout(() => controller.abort(), wait);
            kinds.push(await load("/bundles/numbers/", { signal: controller.signal })
              .then(() => "loaded", (error) => error.kind));
          }
          return kinds;
        }"""
    )
    assert found == ["cancelled"] * 3
    server.fault = None
    found = page.evaluate(
        """async ([ids]) => {
          const { load } = await import("/llmkg-lab.js");
          const model = await load("/bundles/numbers/");
          const controller = new AbortController();
          const greedy = { temperature: 0, repetition_penalty: 1 };
          let count = 0, kind = "";
          try {
            const options = { ...greedy, max_tokens: 400, signal: controller.signal };
            for await (const _ of model.tokens(ids, [], options)) {
              if (++count === 3) controller.abort();
            }
          } catch (error) { kind = error.kind; }
          const all = async (prompt) => {
            const tokens = [];
            const options = { ...greedy, max_tokens: 12 };
            for await (const token of model.tokens(prompt, [], options)) tokens.push(token);
            return tokens;
          };
          const alone = [await all(ids), await all([9, 9, 9])];
          const together = await Promise.all([all(ids), all([9, 9, 9])]);
          const pending = all(ids).catch((error) => error.kind);
          model.dispose();
          return { count, kind, alone, together, pending: await pending,
                   after: await all(ids).catch((error) => error.kind) };
        }""",
        [IDS],
    )
    assert found["kind"] == "cancelled"
    assert found["count"] < 100
    assert found["together"] == found["alone"]
    assert (found["pending"], found["after"]) == ("disposed", "disposed")


def test_two_hundred_answers_take_no_more_memory(page):
    found = page.evaluate(
        """async ([ids]) => {
          const { load } = await import("/llmkg-lab.js");
          const model = await load("/bundles/numbers/", { threads: 1 });
          const bytes = async () => (await performance.measureUserAgentSpecificMemory()).bytes;
          const some = async (count) => {
            for (let i = 0; i < count; i++) {
              const prompt = [...ids, i % 131];
              for await (const _ of model.tokens(prompt, [], { max_tokens: 4, seed: i })) {}
            }
          };
          await some(20);
          const before = await bytes();
          await some(200);
          const after = await bytes();
          model.dispose();
          return [before, after];
        }""",
        [IDS],
    )
    assert found[1] < found[0] + 2e6, found


def test_what_cannot_be_is_said(page, server, numbers_bundle, tmp_path):
    folder = copied(numbers_bundle, tmp_path / "numbers")
    server.bundles["other"] = folder
    manifest = json.loads((folder / FILE).read_text())
    changes = {
        "memory": {"context_length": 1 << 24},
        "damaged": {"format": "something else"},
    }
    for kind, change in changes.items():
        (folder / FILE).write_text(json.dumps({**manifest, **change}))
        found = generate(page, {"positions": 1 << 24}, bundle="other")
        assert found["kind"] == kind, found
        assert found["hint"]
    layers = manifest["engine"]["decoder"]["layers"]
    layers[0]["qkv"]["codes"][1] = 1 << 40
    (folder / FILE).write_text(json.dumps(manifest))
    assert generate(page, bundle="other")["kind"] == "damaged"


def test_the_page_answers_and_works_offline(page, server):
    page.goto(server.address)
    page.wait_for_function("document.querySelectorAll('#model option').length")
    page.click("#load")
    page.wait_for_selector("#chat:not([hidden])")
    assert "network" in page.inner_text("#status")
    page.wait_for_function("navigator.serviceWorker.controller")
    page.reload()
    page.wait_for_function("document.querySelectorAll('#model option').length")
    page.click("#load")  # by now the service worker has seen all that it keeps
    page.wait_for_selector("#chat:not([hidden])")
    page.context.set_offline(True)
    try:
        page.reload()
        page.wait_for_function("document.querySelectorAll('#model option').length")
        page.click("#load")
        page.wait_for_selector("#chat:not([hidden])")
        assert "Nothing came over the network" in page.inner_text("#status")
    finally:
        page.context.set_offline(False)
        page.evaluate(UNREGISTER)
    assert page.strangers == []


def test_the_service_worker_isolates_the_page_where_the_server_does_not(page, server):
    server.headers = {"Cache-Control": "no-cache"}
    page.goto(server.address)
    try:
        page.wait_for_function("crossOriginIsolated")  # once the page has loaded itself again
        page.wait_for_function("document.querySelectorAll('#model option').length")
        assert generate(page, {"threads": 2})["threads"] == 2
    finally:
        page.evaluate(UNREGISTER)


def test_the_base_is_small():
    import brotli

    folder = Path(native_engine.ENGINE).parent / "web" / "dist"
    sizes = {p.name: len(brotli.compress(p.read_bytes())) for p in folder.iterdir() if p.is_file()}
    unused = sizes.pop("engine-plain.wasm")  # a browser takes one of them
    assert unused < 22_000
    assert sizes["engine-relaxed.wasm"] < 25_000
    assert sum(sizes.values()) < 100_000, sizes
    plain = [p for p in (folder / "ort").iterdir() if not WEBGPU.search(p.name)]
    whole = sum(len(brotli.compress(p.read_bytes(), quality=9)) for p in plain)
    assert sum(sizes.values()) + whole < 2_900_000
