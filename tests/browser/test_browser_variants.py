"""Five variants at their reduced size in Chromium: two forms of decoder, both kinds of encoder."""

import numpy as np
import pytest
import tokenizers
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
  const ranks = model.task === "text-ranking";
  const texts = [query, ...passages];
  const results = ranks ? await model.rank(query, passages) : await model.embed(texts);
  const { engine, why } = model.choice;
  await model.dispose();
  return { results: results.map((result) => (ranks ? result : Array.from(result))), engine, why };
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
def test_encoders_compute_what_the_same_code_does_here(made, page, name, tmp_path):
    artifact, folder = made[name]
    said = page.evaluate(ENCODE, [name, QUERY, PASSAGES])
    found = np.array(said["results"], np.float32).reshape(-1)
    assert said["engine"] == "llmkg-lab, relaxed SIMD"
    assert "ms per token" in said["why"]
    pairs = [(QUERY, passage) for passage in PASSAGES]
    if name == "all_minilm_l6_v2":
        pairs = [(text, None) for text in (QUERY, *PASSAGES)]
        near = Embedder(artifact).embed([QUERY, *PASSAGES]).reshape(-1)
    else:
        near = np.array(Ranker(artifact).score(pairs))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    encoder = native_engine.NativeEncoder(native_engine.library(tmp_path), folder)
    read = (tokenizer.encode(*pair) for pair in pairs)
    wanted = np.concatenate([encoder.run(text.ids, text.type_ids) for text in read])
    encoder.close()
    np.testing.assert_array_equal(found, wanted)
    # activations on a border of their 8 bits may fall to either side in ONNX Runtime
    assert np.linalg.norm(found - near) < 0.02 * np.linalg.norm(near)
