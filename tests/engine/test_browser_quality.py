"""What a scheme costs in a browser is what it costs on this machine, on real weights and text.

The judge is the float32 graph, run by ONNX Runtime; divergences are computed in the page, from its
own logits and the judge's, and here from ONNX Runtime's run of the same scheme.
"""

import numpy as np
import pytest
from support import native_engine
from support.bundles import BUILT, serving
from support.lab_browser import CHROMIUM, browser

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import bundle
from llmkg_lab.data import texts
from llmkg_lab.measure.estimate import estimate
from llmkg_lab.quantize.solve.equalize import random_rescaling
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
SCHEMES = ("int4-rtn", "int8-rtn", "int4-b128-sym-s16-e4")
TOKENS, SPAN = 256, 16  # of the text; of a block that is drawn together for an interval
# the divergence of each token from the judge's, and the likeliest token after each
DIVERGENCES = """async ([bundle, ids, vocab]) => {
  const { load } = await import("/llmkg-lab.js");
  const model = await load(`/bundles/${bundle}/`, { store: "none", threads: 2, positions: 512 });
  const logits = await model.logits(ids);
  model.dispose();
  const judge = new Float32Array(await (await fetch("/bundles/judge/logits.bin")).arrayBuffer());
  const normalized = (row) => {
    const largest = row.reduce((a, b) => Math.max(a, b));
    const total = row.reduce((sum, x) => sum + Math.exp(x - largest), 0);
    return Float64Array.from(row, (x) => x - largest - Math.log(total));
  };
  const divergences = [];
  const likeliest = [];
  for (let i = 0; i < ids.length; i++) {
    const row = logits.subarray(i * vocab, (i + 1) * vocab);
    const ours = normalized(row);
    const theirs = normalized(judge.subarray(i * vocab, (i + 1) * vocab));
    divergences.push(theirs.reduce((sum, x, j) => sum + Math.exp(x) * (x - ours[j]), 0));
    likeliest.push(row.indexOf(row.reduce((a, b) => Math.max(a, b))));
  }
  return { divergences, likeliest };
}"""


def divergences(judge, logits):
    """KL(judge || logits) of each token, float64 (tokens,)."""

    def normalized(rows):
        rows = rows.astype(np.float64) - rows.max(1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    theirs = normalized(judge)
    return (np.exp(theirs) * (theirs - normalized(logits))).sum(1)


@pytest.fixture(scope="module")
def made(smollm2_gguf, tmp_path_factory):
    """The judge's logits, ids, and by scheme the native logits and the bundle."""
    folder = tmp_path_factory.mktemp("schemes")
    # weights that were packaged at 4 bits lie on a grid that flatters a scheme of the same grid
    checkpoint = random_rescaling(open_checkpoint(smollm2_gguf), 0.3, 0)
    exact = convert(checkpoint, Scheme.parse("fp32"), folder / "fp32")
    text = texts.load(("wikitext2", "lee_background", "pydoc")).evaluation
    ids = Tokenizer.from_folder(exact.folder).encode(text[:4000])[:TOKENS]
    judge = Decoder(exact).logits(np.array([ids]))[0]
    (folder / "judge").mkdir()
    judge.astype(np.float32).tofile(folder / "judge" / "logits.bin")
    found = {}
    for scheme in SCHEMES:
        artifact = convert(checkpoint, Scheme.parse(scheme), folder / scheme)
        native = Decoder(artifact).logits(np.array([ids]))[0]
        found[scheme] = native, bundle(artifact, folder / f"web-{scheme}")
    return judge, ids, found, folder / "judge"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_costs_in_a_browser_what_it_costs_here(made, scheme, tmp_path):
    judge, ids, found, folder = made
    native, bundle_folder = found[scheme]
    bundles = {"scheme": bundle_folder, "judge": folder}
    with serving(bundles) as server, browser(tmp_path / "chromium") as page:
        page.goto(f"{server.address}?worker=none")
        said = page.evaluate(DIVERGENCES, ["scheme", ids, judge.shape[1]])
    here, there = divergences(judge, native), np.array(said["divergences"])
    blocks = np.arange(len(ids)) // SPAN
    interval = estimate(np.mean, here, unit="nats", blocks=blocks)
    print(f"{scheme}: {interval} here, {there.mean():.5f} in Chromium, {len(ids)} tokens")
    assert interval.low <= there.mean() <= interval.high
    # token by token: what differs is on which side of a border an activation is rounded, and of
    # 8 bits that is most of what there is
    assert np.corrcoef(here, there)[0, 1] > (0.95 if scheme.startswith("int4") else 0.5)
    decoder = native_engine.NativeDecoder(
        native_engine.library(tmp_path / "native"), bundle_folder, positions=512
    )
    same_code = decoder.all_logits(ids)
    decoder.close()
    assert said["likeliest"] == same_code.argmax(1).tolist()
