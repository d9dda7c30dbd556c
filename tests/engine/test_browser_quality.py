"""What a scheme costs in a browser is what it costs on this machine, on real weights and text.

The judge is the float32 graph, run by ONNX Runtime; divergences are computed in the page, from its
own logits and the judge's, and here from ONNX Runtime's run of the same scheme.
"""

import hashlib
import itertools

import numpy as np
import pytest
from support import native_engine
from support.bundles import BUILT, serving
from support.lab_browser import CHROMIUM, browser

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion import to_onnx
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import bundle
from llmkg_lab.data import texts
from llmkg_lab.measure.estimate import estimate
from llmkg_lab.quantize.budget.options import CANDIDATES
from llmkg_lab.quantize.prepare import Prepared
from llmkg_lab.quantize.solve.equalize import random_rescaling
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme

MIX = "budget:90MB"  # stands for any: its layouts are drawn, not solved, which takes an hour
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
SCHEMES = ("int4-rtn", "int8-rtn", "int4-b128-sym-s16-e4", MIX)
TOKENS, SPAN = 256, 16  # of the text; of a block that is drawn together for an interval
# the divergence of each token from the judge's, and a hash of all logits
DIVERGENCES = """async ([bundle, ids, vocab]) => {
  const { load } = await import("/llmkg-lab.js");
  const model = await load(`/bundles/${bundle}/`, { store: "none", threads: 2, positions: 512 });
  const logits = await model.logits(ids);
  model.dispose();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", logits.buffer));
  const judge = new Float32Array(await (await fetch("/bundles/judge/logits.bin")).arrayBuffer());
  const normalized = (row) => {
    const largest = row.reduce((a, b) => Math.max(a, b));
    const total = row.reduce((sum, x) => sum + Math.exp(x - largest), 0);
    return Float64Array.from(row, (x) => x - largest - Math.log(total));
  };
  const divergences = [];
  for (let i = 0; i < ids.length; i++) {
    const row = logits.subarray(i * vocab, (i + 1) * vocab);
    const ours = normalized(row);
    const theirs = normalized(judge.subarray(i * vocab, (i + 1) * vocab));
    divergences.push(theirs.reduce((sum, x, j) => sum + Math.exp(x) * (x - ours[j]), 0));
  }
  return { divergences, digest: [...digest] };
}"""


def divergences(judge, logits):
    """KL(judge || logits) of each token, float64 (tokens,)."""

    def normalized(rows):
        rows = rows.astype(np.float64) - rows.max(1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    theirs = normalized(judge)
    return (np.exp(theirs) * (theirs - normalized(logits))).sum(1)


def mixed(checkpoint, *_, **__):
    """Every layout that a budget may take, in turn; 2 bits for one matrix in twenty."""
    parts = [unit.parts[0] for unit in checkpoint.form.units()]
    wide = itertools.cycle(layout for layout in CANDIDATES if layout.bits > 2)
    narrow = itertools.cycle(layout for layout in CANDIDATES if layout.bits == 2)
    layouts = {part: next(narrow if i % 20 == 19 else wide) for i, part in enumerate(parts)}
    return Prepared(checkpoint, layouts=layouts)


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf):
    """Real weights, moved off the grid of 4 bits that they were packaged on."""
    return random_rescaling(open_checkpoint(smollm2_gguf), 0.3, 0)


@pytest.fixture(scope="module")
def judged(checkpoint, tmp_path_factory):
    """The judge's logits, also as a file in a folder, and the ids that they are of."""
    folder = tmp_path_factory.mktemp("judge")
    exact = convert(checkpoint, Scheme.parse("fp32"), folder / "fp32")
    text = texts.load(("wikitext2", "lee_background", "pydoc")).evaluation
    ids = Tokenizer.from_folder(exact.folder).encode(text[:4000])[:TOKENS]
    judge = Decoder(exact).logits(np.array([ids]))[0]
    judge.astype(np.float32).tofile(folder / "logits.bin")
    return judge, ids, folder


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_costs_in_a_browser_what_it_costs_here(
    checkpoint, judged, scheme, tmp_path, monkeypatch
):
    judge, ids, folder = judged
    if scheme == MIX:
        monkeypatch.setattr(to_onnx, "prepare", mixed)
    artifact = convert(checkpoint, Scheme.parse(scheme), tmp_path / "artifact")
    native = Decoder(artifact).logits(np.array([ids]))[0]
    bundle_folder = bundle(artifact, tmp_path / "bundle")
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
    assert np.corrcoef(here, there)[0, 1] > (0.5 if scheme.startswith("int8") else 0.95)
    decoder = native_engine.NativeDecoder(
        native_engine.library(tmp_path / "native"), bundle_folder, positions=512
    )
    same_code = decoder.all_logits(ids)
    decoder.close()
    assert bytes(said["digest"]) == hashlib.sha256(same_code.tobytes()).digest()
