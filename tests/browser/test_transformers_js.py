"""Bundles opened by Transformers.js without options, in Node and Chromium: the same results."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from support.bundles import BUILT, serving
from support.lab_browser import CHROMIUM, browser

from llmkg_lab.base import paths
from llmkg_lab.conversion.to_web import bundle
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig
from llmkg_lab.runtime.text.tokenizer import Tokenizer

PEERS = paths.ROOT / "web" / "peers" / "node_modules"
LIBRARY = PEERS / "@huggingface" / "transformers"
NETWORK = "https://cdn.jsdelivr.net/npm/onnxruntime-web@*/dist/*"  # where it gets ONNX Runtime
SCRIPT = Path(__file__).with_name("transformers_js.mjs")
PROMPT = "The capital of France is"
TOKENS = 16
IN_PAGE = """async ([task, name, text, tokens]) => {
  const { pipeline, env } = await import("/bundles/transformers/transformers.min.js");
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "/bundles/";
  const run = await pipeline(task, name);
  if (task !== "text-generation") {
    return Array.from((await run(text, { pooling: "mean", normalize: true })).data);
  }
  const options = { max_new_tokens: tokens, do_sample: false, return_full_text: false };
  return (await run(text, options))[0].generated_text;
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BUILT, reason="the page is not built: make web"),
    pytest.mark.skipif(
        not LIBRARY.is_dir(),
        reason="npm ci --ignore-scripts in web/peers: make test-browser",
    ),
]
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def bundles(make_artifact, tmp_path_factory):
    """Bundles of real models by name, beside Transformers.js itself."""
    folder = tmp_path_factory.mktemp("bundles")
    named = {
        f"{model}-{scheme}": bundle(make_artifact(model, scheme), folder / f"{model}-{scheme}")
        for model, scheme in (
            *(("smollm2", "int4-rtn"), ("smollm2", "int8-rtn"), ("smollm2", "int4-s16-e8b64sym")),
            ("minilm", "int8-rtn"),
        )
    }
    yield named
    shutil.rmtree(folder)


def in_node(folder, task):
    command = ["node", SCRIPT, LIBRARY, folder.parent, folder.name, task, PROMPT, str(TOKENS)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def in_chromium(bundles, tmp_path_factory):
    """Open a bundle in a page. What the page asks a content network for lies beside the library."""
    runtime = LIBRARY / "node_modules" / "onnxruntime-web" / "dist"
    served = {**bundles, "transformers": LIBRARY / "dist"}
    headers = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
    types = {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def answer(route):
        file = runtime / route.request.url.rpartition("/")[2]
        route.fulfill(path=file, headers={**headers, "Content-Type": types[file.suffix]})

    chromium = browser(tmp_path_factory.mktemp("profile") / "chromium")
    with serving(served) as server, chromium as page:
        page.route(NETWORK, answer)
        page.goto(f"{server.address}?worker=none")
        yield lambda name, task: page.evaluate(IN_PAGE, [task, name, PROMPT, TOKENS])


def without_rounding(folder):
    """Greedy text by the web graph on this machine, its activations not rounded to 8 bits.

    So ONNX Runtime's WebAssembly computes: it has no product of integers for packed weights.
    """
    (path,) = (folder / "onnx").glob("*.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = 0
    session = onnxruntime.InferenceSession(model.SerializeToString())
    tokenizer = Tokenizer.from_folder(folder)
    past = {
        value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past")
    }
    names = [value.name for value in session.get_outputs()]
    ids = new = tokenizer.encode(PROMPT)
    for _ in range(TOKENS):
        feeds = {"input_ids": np.array([new]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        out = session.run(names, {**feeds, **past, "num_logits_to_keep": np.array(1)})
        results = dict(zip(names, out, strict=True))
        past = {name: results[name.replace("past_key_values", "present")] for name in past}
        new = [int(results["logits"][0, -1].argmax())]
        ids = [*ids, *new]
    return tokenizer.decode(ids[-TOKENS:])


@needs_node
@pytest.mark.parametrize("name", ["int4-rtn", "int8-rtn", "int4-s16-e8b64sym"])
def test_node_writes_the_same_text(bundles, make_artifact, name):
    greedy = GenerationConfig(temperature=0, repetition_penalty=1, max_tokens=TOKENS)
    backend = open_backend(make_artifact("smollm2", name).folder)
    wanted = "".join(backend.stream_text(PROMPT, greedy))
    assert in_node(bundles[f"smollm2-{name}"], "text-generation") == wanted


@needs_chromium
@pytest.mark.parametrize("name", ["int4-rtn", "int8-rtn"])
def test_chromium_writes_the_same_text(bundles, in_chromium, name):
    name = f"smollm2-{name}"
    assert in_chromium(name, "text-generation") == without_rounding(bundles[name])


@pytest.mark.parametrize(
    "where", [pytest.param("node", marks=needs_node), pytest.param("page", marks=needs_chromium)]
)
def test_the_same_vectors(bundles, make_artifact, in_chromium, where):
    (wanted,) = open_backend(make_artifact("minilm", "int8-rtn").folder).embed([PROMPT])
    task, name = "feature-extraction", "minilm-int8-rtn"
    found = np.array(in_node(bundles[name], task) if where == "node" else in_chromium(name, task))
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.999
