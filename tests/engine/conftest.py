"""The engine, compiled once for this machine and for WebAssembly."""

import pytest
from support import native_engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    return native_engine.library(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def binaries(tmp_path_factory):
    return native_engine.build_module().wasm(tmp_path_factory.mktemp("wasm"))


@pytest.fixture(scope="session")
def web(tmp_path_factory):
    """A folder in the place of the built page, which tests of the engine do not look at."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "llmkg-lab.js").write_text("")
    return folder
