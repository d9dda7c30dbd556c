"""A server of three small models with random weights, and the models themselves."""

import contextlib

import pytest
from support.served import small_artifacts
from support.server import serving


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """By what they do."""
    return small_artifacts(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def models(artifacts):
    """The arguments that name them to a server."""
    return [f"{name}={artifact.folder}" for name, artifact in artifacts.items()]


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    """One that most tests share: it has few slots and short times."""
    folder = tmp_path_factory.mktemp("server")
    options = ("--slots", 4, "--context", 512, "--queue", 16)
    with serving(folder, *models, *options) as server:
        yield server


@pytest.fixture
def start(tmp_path):
    """Start a server of one's own with the arguments given; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(serving(tmp_path, *arguments))
