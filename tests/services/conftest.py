"""A server of small models with random weights."""

import pytest
from support.served import small_artifacts
from support.server import serving


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The arguments that name them to a server."""
    made = small_artifacts(tmp_path_factory.mktemp("served"))
    return [f"{name}={artifact.folder}" for name, artifact in made.items()]


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), *models, "--context", 512) as server:
        yield server
