"""One command serves what runs left; what README and guide show works as it stands there."""

import json
import re
import shutil
import subprocess

import pytest
from support.results import write_result

from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.results import registry
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.serve import offered

GUIDE, README = paths.ROOT / "docs" / "guide" / "serving.md", paths.ROOT / "README.md"
VARIANT, HUB_ID = "smollm2_135m_instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def outputs(artifacts, tmp_path_factory):
    """As `llmkg-lab run` leaves it; the weights are random, which the registry is not told."""
    folder = tmp_path_factory.mktemp("outputs")
    verdicts = {"int4-rtn": Verdict.BELOW_TARGET, "int8-rtn": Verdict.PASS, "fp32": Verdict.FAIL}
    write_result(folder, f"smollm/{VARIANT}", artifacts["text"], verdicts)
    registry.build(folder)[0].save(folder)
    return folder


def test_models_are_named_by_variant_and_scheme(outputs):
    models, aliases = offered.of_registry(outputs)
    assert {name for name, _ in models} == {f"{VARIANT}:int8-rtn", f"{VARIANT}:int4-rtn"}
    assert dict(aliases) == {
        **dict.fromkeys((VARIANT, HUB_ID, f"{HUB_ID}:int8-rtn"), f"{VARIANT}:int8-rtn"),
        f"{HUB_ID}:int4-rtn": f"{VARIANT}:int4-rtn",
    }
    with pytest.raises(LabError):
        offered.of_registry(outputs / "nothing")


def test_folders_are_named_by_their_last_two_parts_or_as_told(tmp_path):
    given = [str(tmp_path / "a" / "int8"), f"mine={tmp_path}/b/int8"]
    models, _ = offered.of_folders(given)
    assert models == (("a/int8", given[0]), ("mine", f"{tmp_path}/b/int8"))
    with pytest.raises(LabError, match="two models are named mine"):
        offered.of_folders(["mine=x", "mine=y"])


def snippets(document):
    """The commands with curl that a document shows."""
    text = re.sub(r"^    ", "", document.read_text(), flags=re.M)
    return re.findall(r"^(curl .*?\}'?)$(?=\n\n)", text, re.M | re.S)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_what_the_documents_show_works_when_it_is_pasted(outputs, start):
    server = start("--out", outputs)
    listed = {model["id"] for model in server.json("/v1/models")["data"]}
    assert {VARIANT, HUB_ID, f"{VARIANT}:int8-rtn"} <= listed
    shown = [*snippets(GUIDE), *snippets(README)]
    assert shown
    for snippet in shown:
        pasted = snippet.replace(":8000", f":{server.port}")
        done = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, timeout=120)
        answer = json.loads(done.stdout)
        assert answer["choices"][0]["finish_reason"] in ("stop", "length"), done
