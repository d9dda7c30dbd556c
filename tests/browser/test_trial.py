"""An artifact tried in a real Chromium, and the section of a report that shows it."""

import pytest
from support.bundles import BUILT, numbers_llama
from support.lab_browser import CHROMIUM

from llmkg_lab.base.errors import LabError
from llmkg_lab.browser.trial import attempt
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.report import tables
from llmkg_lab.scheme import Scheme

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    checkpoint = open_checkpoint(numbers_llama(folder / "llama"))
    return convert(checkpoint, Scheme.parse("int8-rtn"), folder / "artifact")


def test_a_trial_tells_what_a_visitor_gets(artifact):
    trial = attempt(artifact, "5 77 3 130 12 9")
    weights = sum(path.stat().st_size for path in (artifact.folder / "onnx").glob("*data*"))
    assert weights < trial.download < weights + 500_000  # beside them: loader, engine, tokenizer
    assert weights / 2 < trial.compressed < trial.download
    assert trial.second_download == 0
    assert 0 < trial.unit < trial.first < trial.warm  # of a prompt, a token; of a load, much more
    assert weights < trial.memory < weights + 500e6
    assert trial.engine.startswith("llmkg-lab")
    assert "measured in" in trial.why
    scheme = Scheme.parse("int8-rtn")
    refused = LabError("no Chromium is installed", "install one")
    table = tables.trials(
        {"int8-rtn": scheme, "fp16": scheme}, {"int8-rtn": trial, "fp16": refused}
    )
    for shown in (f"{trial.unit:.1f}", f"{trial.download / 1e6:.1f}", "no Chromium", "Chromium 1"):
        assert shown in table.data


def test_without_a_chromium_it_says_so(artifact, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LabError, match="no Chromium is installed"):
        attempt(artifact)
