"""Bundles in the place where a browser finds them, and a Chromium that looks there."""

import pytest
from support import native_engine
from support.bundles import make_bundle, numbers_llama, serving
from support.lab_browser import browser

from llmkg_lab.browser.server import HEADERS


@pytest.fixture(scope="session")
def numbers_bundle(tmp_path_factory):
    """A small decoder at 8 bits: four ranges of weights."""
    folder = tmp_path_factory.mktemp("numbers")
    return make_bundle(numbers_llama(folder / "llama"), "int8-rtn", folder)


@pytest.fixture(scope="module")
def server(numbers_bundle):
    with serving({"numbers": numbers_bundle}) as server:
        yield server


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile") / "chromium") as page:
        page.set_default_timeout(60_000)
        yield page


@pytest.fixture
def page(chromium, server):
    """The page of a server without faults, nothing stored and nothing asked."""
    server.fault = server.prelude = None
    server.headers = dict(HEADERS)
    chromium.goto(f"{server.address}?worker=none")
    chromium.evaluate(
        """async () => {
          const root = await navigator.storage.getDirectory();
          for await (const name of root.keys()) await root.removeEntry(name, { recursive: true });
          for (const name of await caches.keys()) await caches.delete(name);
          localStorage.clear();
        }"""
    )
    server.asked = 0
    return chromium


@pytest.fixture(scope="session")
def native(numbers_bundle, tmp_path_factory):
    """The same C, compiled for this machine, on the same weights."""
    library = native_engine.library(tmp_path_factory.mktemp("native"))
    decoder = native_engine.NativeDecoder(library, numbers_bundle)
    yield decoder
    decoder.close()
