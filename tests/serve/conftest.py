"""A server of three small models with random weights, and the models themselves."""

import pytest
from support.server import Server

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

VARIANTS = {
    "text": "smollm2_135m_instruct",
    "embed": "all_minilm_l6_v2",
    "rank": "ms_marco_minilm_l6_v2",
}


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """By what they do."""
    folder = tmp_path_factory.mktemp("served")
    checkpoints = {
        name: open_checkpoint(fetch(find_variant(variant), "synthetic:reduced").path)
        for name, variant in VARIANTS.items()
    }
    return {
        name: convert(checkpoint, Scheme.parse("int8"), folder / name)
        for name, checkpoint in checkpoints.items()
    }


@pytest.fixture(scope="session")
def models(artifacts):
    """The arguments that name them to a server."""
    return [f"{name}={artifact.folder}" for name, artifact in artifacts.items()]


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    """One that most tests share: it has few slots and short times."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder, *models, "--slots", 4, "--context", 512, "--queue", 16)
    yield server
    code = server.end()
    assert code == 0, server.text()
    assert "Traceback" not in server.text()
