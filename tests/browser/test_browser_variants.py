"""Five variants at their reduced size in Chromium: two forms of decoder, both kinds of encoder."""

import numpy as np
import pytest
from support import native_engine
from support.bundles import BUILT, serving
from support.lab_browser import CHROMIUM, browser

from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import bundle
from llmkg_lab.roster.catalog import roster
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
DECODERS = ("smollm2_135m_instruct", "tinyllama_1_1b_chat_v1_0", "openelm_270m")
ENCODERS = ("all_minilm_l6_v2", "ms_marco_minilm_l6_v2")
QUERY, PASSAGES = "how tall is it", ["The tower is 300 m tall.", "It rains."]
LOGITS = """async ([bundle, ids]) => {
  const { load } = await import("/llmkg-lab.js");
  const model = await load(`/bundles/${bundle}/`, { store: "none", positions: 64 });
  const logits = Array.from(await model.logits(ids));
  model.dispose();
  return logits;
}"""
ENCODE = """async ([bundle, query, passages]) => {
  const { load } = await import("/llmkg-lab.js");
  const model = await load(`/bundles/${bundle}/`, { store: "none" });
  if (model.task === "text-ranking") return model.rank(query, passages);
  return (await model.embed([query, ...passages])).map((vector) => Array.from(vector));
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Artifacts and bundles by variant."""
    folder = tmp_path_factory.mktemp("variants")
    found = {}
    for name in (*DECODERS, *ENCODERS):
        checkpoint = fetch(roster()[name], "synthetic:reduced").open()
        artifact = convert(checkpoint, Scheme.parse("int8-rtn"), folder / name / "artifact")
        found[name] = artifact, bundle(artifact, folder / name / "bundle")
    return found


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    bundles = {name: folder for name, (_, folder) in made.items()}
    profile = tmp_path_factory.mktemp("profile") / "chromium"
    with serving(bundles) as server, browser(profile) as page:
        page.goto(f"{server.address}?worker=none")
        yield page


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_compute_what_the_same_code_does_here(made, page, name, tmp_path):
    artifact, folder = made[name]
    ids = np.random.default_rng(0).integers(0, artifact.vocab_size, 20)
    decoder = native_engine.NativeDecoder(native_engine.library(tmp_path), folder, positions=64)
    wanted = decoder.all_logits(ids)
    decoder.close()
    found = np.array(page.evaluate(LOGITS, [name, ids.tolist()])).reshape(wanted.shape)
    np.testing.assert_array_equal(found.astype(np.float32), wanted)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_compute_what_the_artifact_does_here(made, page, name):
    artifact, _ = made[name]
    found = np.array(page.evaluate(ENCODE, [name, QUERY, PASSAGES]))
    if name == "all_minilm_l6_v2":
        wanted = Embedder(artifact).embed([QUERY, *PASSAGES])
    else:
        wanted = Ranker(artifact).score([(QUERY, passage) for passage in PASSAGES])
    # native products round activations to 8 bits, those of the browser do not
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)
