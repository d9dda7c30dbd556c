"""Bundles opened by Transformers.js without options, in Node: the same text, the same vectors."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llmkg_lab.base import paths
from llmkg_lab.conversion.to_web import bundle
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig

PEERS = paths.ROOT / "web" / "peers"
SCRIPT = Path(__file__).with_name("transformers_js.mjs")
PROMPT = "The capital of France is"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed"),
    pytest.mark.skipif(
        not (PEERS / "node_modules").is_dir(), reason="npm ci --ignore-scripts in web/peers"
    ),
]


@pytest.fixture(autouse=True)
def built_page(tmp_path, monkeypatch):
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "llmkg-lab.js").write_text("export {};")
    monkeypatch.setenv("LLMKG_LAB_WEB", str(folder))


def opened(folder, task, text):
    command = ["node", str(SCRIPT), str(PEERS), str(folder.parent), folder.name, task, text]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("scheme", ["int4-rtn", "int8-rtn", "int4-s16-e8b64sym"])
def test_the_same_text(make_artifact, scheme, tmp_path):
    artifact = make_artifact("smollm2", scheme)
    made = bundle(artifact, tmp_path / "bundle")
    greedy = GenerationConfig(temperature=0, repetition_penalty=1, max_tokens=24)
    wanted = "".join(open_backend(artifact.folder).stream_text(PROMPT, greedy))
    assert opened(made, "text-generation", PROMPT) == wanted


def test_the_same_vectors(make_artifact, tmp_path):
    artifact = make_artifact("minilm", "int8-rtn")
    made = bundle(artifact, tmp_path / "bundle")
    (wanted,) = open_backend(artifact.folder).embed([PROMPT])
    found = np.array(opened(made, "feature-extraction", PROMPT))
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.999
