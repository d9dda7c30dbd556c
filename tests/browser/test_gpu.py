"""With WebGPU and without: in Chromium, SwiftShader plays a GPU."""

import pytest
from support.bundles import BUILT, serving
from support.lab_browser import CHROMIUM, browser
from support.page import continued, generate, greedy

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_that_the_processor_plays_is_not_taken(numbers_bundle, native, tmp_path, gpu):
    flags = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader") if gpu else ()
    with (
        serving({"numbers": numbers_bundle}) as server,
        browser(tmp_path / "chromium", arguments=flags) as page,
    ):
        page.goto(f"{server.address}?worker=none")
        device = page.evaluate(
            """async () => (await import("/llmkg-lab.js")).detect()""",
        )
        found = generate(page)
        taken = generate(page, {"gpu": "any"}) if gpu else found
    if gpu:
        assert device["gpu"] == {"f16": False, "software": True, "name": device["gpu"]["name"]}
    else:
        assert device["gpu"] is None
    assert device["simd"]
    assert device["isolated"]
    assert found["engine"].startswith("llmkg-lab")
    assert found["tokens"] == continued(native, greedy, 24)
    assert taken["tokens"] == found["tokens"]
    assert ("with the GPU" in taken["why"]) == gpu  # it was tried, and was slower
