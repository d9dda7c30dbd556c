"""The low-memory decoder against the plain one, and against a limit that the kernel enforces."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort import packed
from llmkg_lab.runtime.ort.decoder import PREFILL_CHUNK, Decoder
from llmkg_lab.runtime.ort.paged import PagedDecoder
from llmkg_lab.runtime.ort.residency import MappedWeights, resident
from llmkg_lab.runtime.ort.segments import cut
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

ENOUGH = 4 << 30  # bytes: more than this process has, so that all stays

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMKG_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def openelm(tmp_path_factory):
    """A small OpenELM: layers of several sizes, queries and keys normed, table and head shared."""
    checkpoint = open_checkpoint(fetch(find_variant("openelm_270m"), "synthetic:reduced").path)
    out = tmp_path_factory.mktemp("openelm")
    return {
        scheme: convert(checkpoint, Scheme.parse(scheme), out / scheme)
        for scheme in ("fp32", "fp16", "int8-rtn", "int4-b64-s16")
    }


def nothing_stays(decoder):
    for page in decoder._pages:
        page.stays = False
        page.weights.evict()
    return decoder


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "fp16", "int8-rtn", "int4-b64-s16"])
def test_it_computes_what_the_plain_decoder_computes(scheme, openelm):
    plain = Decoder(openelm[scheme], max_length=2 * PREFILL_CHUNK + 40)
    paged = nothing_stays(PagedDecoder(openelm[scheme], memory=ENOUGH))
    ids = np.random.default_rng(0).integers(0, plain.vocab, 2 * PREFILL_CHUNK + 20)
    for start, stop in ((0, 5), (5, 6), (6, len(ids))):  # a prompt, a token, several chunks
        expected = plain.prefill(ids[start:stop])
        np.testing.assert_allclose(paged.prefill(ids[start:stop]), expected, rtol=0, atol=2e-4)
    prompt = ids[:9].tolist()
    assert list(paged.generate(prompt, 16)) == list(plain.generate(prompt, 16))


def test_greedy_tokens_of_the_real_model_are_the_same(make_artifact):
    artifact = make_artifact("smollm2", "int4-rtn")
    prompt = [504, 3575, 282, 4649, 314]
    expected = list(Decoder(artifact, max_length=64).generate(prompt, 24))
    assert (
        list(PagedDecoder(artifact, max_length=64, memory=ENOUGH).generate(prompt, 24)) == expected
    )


@pytest.mark.slow
def test_segments_hold_every_node(openelm):
    import onnx

    path = openelm["int4-b64-s16"].model_path
    whole = onnx.load(path, load_external_data=False).graph
    segments = cut(path)
    names = [n.name for s in segments for n in onnx.load_from_string(s.model).graph.node]
    assert set(names) == {node.name for node in whole.node}
    twice = {name for name in names if names.count(name) > 1}
    assert len(twice) == 1  # the cast of the table's scales, for the table and for the head
    layers = openelm["int4-b64-s16"].config["num_transformer_layers"]
    assert [s.name for s in segments] == [
        "opening",
        *map("layers.{}".format, range(layers)),
        "closing",
    ]


def test_pages_leave_memory_and_come_back(openelm):
    decoder = PagedDecoder(openelm["fp32"], memory=ENOUGH)
    weights = max((page.weights for page in decoder._pages), key=lambda w: w.nbytes)
    first = decoder.prefill([1, 2, 3]).copy()
    before = resident()
    nothing_stays(decoder)
    assert before - resident() > 0.5 * weights.nbytes
    decoder.reset()
    np.testing.assert_array_equal(decoder.prefill([1, 2, 3]), first)


def test_weights_are_packed_once_and_a_cut_off_run_goes_on(openelm, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path))
    artifact, made = openelm["int8-rtn"], []
    pack = packed._pack

    def interrupted(model, weights, target):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(target.name)
        pack(model, weights, target)

    monkeypatch.setattr(packed, "_pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed.packed(artifact)
    monkeypatch.setattr(packed, "_pack", lambda *a: (made.append(a[2].name), pack(*a)))
    segments = packed.packed(artifact)
    assert sorted(made) == sorted(segment.name for segment in segments)
    packed.packed(artifact)
    assert len(made) == len(segments)


def test_what_does_not_fit_is_said(openelm, tmp_path):
    with pytest.raises(InferenceError, match="do not hold this model's largest part"):
        PagedDecoder(openelm["fp32"], memory=80 << 20)
    with pytest.raises(InferenceError, match="max_length"):
        PagedDecoder(openelm["fp32"], max_length=10**6, memory=ENOUGH)
    assert MappedWeights(tmp_path / "not mapped").nbytes == 0


CODE = """
import json, sys
from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.ort.paged import PagedDecoder
from llmkg_lab.runtime.ort.residency import limit_data
from llmkg_lab.measure.speed import peak_memory
kind, memory, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
artifact = Artifact.open(folder)
if memory:
    limit_data(memory)
options = {"memory": memory or 1 << 32} if kind == "paged" else {}
decoder = {"paged": PagedDecoder, "plain": Decoder}[kind](artifact, 1, 64, **options)
print(json.dumps({"tokens": list(decoder.generate([1, 2, 3], 8)), "peak": peak_memory()}))
"""


def run(*arguments):
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # of 40 MB each, which a limit counts
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_real_model_generates_under_a_limit_that_the_plain_decoder_breaks(make_artifact):
    folder = make_artifact("smollm2", "int8-rtn").folder  # 155 MB of weights
    memory = 280 * 10**6
    assert json.loads(run("paged", 0, folder).stdout)  # packs the weights
    plain = run("plain", memory, folder)
    assert plain.returncode != 0
    assert "bad_alloc" in plain.stderr or "allocate" in plain.stderr
    paged = json.loads(run("paged", memory, folder).stdout)
    assert paged["peak"] <= memory
    assert paged["tokens"] == json.loads(run("plain", 0, folder).stdout)["tokens"]
    assert (
        resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
    )  # ours is as it was
