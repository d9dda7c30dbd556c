"""Backends against each other and against failures that happen: killed workers, damaged files.

A small Llama in float32, as ONNX and as GGUF, so that both runtimes write the same text.
"""

import os
import shutil
import signal

import numpy as np
import pytest

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_gguf import export
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime import BackendError, InferenceError
from llmkg_lab.runtime.backend import CandleBackend, OrtBackend
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig, generate_text
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

PROMPT = "Once upon a time"
CONFIGS = {
    "greedy": GenerationConfig(temperature=0, max_tokens=24, stop_tokens=()),
    "drawn": GenerationConfig(seed=5, temperature=1.5, max_tokens=24, stop_tokens=()),
}
GREEDY = CONFIGS["greedy"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with one model in two formats: fp32/ for ONNX Runtime, gguf-F32/ for Candle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMKG_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        variant = find_variant("smollm2_135m_instruct")
        checkpoint = open_checkpoint(fetch(variant, "synthetic:reduced").path)
        folder = tmp_path_factory.mktemp("llama")
        convert(checkpoint, Scheme.parse("fp32"), folder / "fp32")
        export(checkpoint, "F32", folder / "gguf-F32")
        yield folder


@pytest.fixture(scope="module")
def expected(llama):
    """What the plain decoder writes, by the name of the config."""
    artifact = Artifact.open(llama / "fp32")
    tokenizer = Tokenizer.from_folder(artifact.folder)
    return {
        name: "".join(generate_text(Decoder(artifact), tokenizer, PROMPT, config))
        for name, config in CONFIGS.items()
    }


@pytest.fixture
def copy(llama, tmp_path):
    """A copy of the folder that a test may damage."""
    return shutil.copytree(llama, tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "candle"])
def test_both_runtimes_write_the_same(runtime, config, llama, expected):
    backend = open_backend(llama, prefer=runtime)
    assert backend.metadata().backend == runtime
    assert backend.is_ready()
    assert backend.generate_text(PROMPT, CONFIGS[config]) == expected[config]
    assert backend.memory_usage() > 0
    assert backend.metadata().parameters == open_backend(llama).metadata().parameters
    with pytest.raises(InferenceError, match="embeds no texts"):
        backend.get_embeddings("text")
    backend.close()


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("after", [1, 9])
def test_a_worker_killed_between_tokens_loses_and_doubles_none(
    after, config, llama, expected, caplog
):
    backend = open_backend(llama, prefer="candle")
    stream = backend.stream_text(PROMPT, CONFIGS[config])
    pieces = [next(stream) for _ in range(after)]
    os.kill(backend.active.worker.process.pid, signal.SIGKILL)
    pieces.extend(stream)
    assert "".join(pieces) == expected[config]
    assert "onnxruntime goes on" in caplog.text
    assert "signal 9" in caplog.text
    assert backend.metadata().backend == "onnxruntime"
    assert backend.generate_text(PROMPT, CONFIGS[config]) == expected[config]


@pytest.mark.slow
def test_a_request_that_is_to_blame_changes_no_runtime(llama, caplog):
    backend = open_backend(llama, prefer="candle")
    with pytest.raises(InferenceError, match="no tokens"):
        backend.generate_text("", GREEDY)
    with pytest.raises(InferenceError, match="positions"):
        backend.generate_text("word " * 9000, GREEDY)
    assert backend.metadata().backend == "candle"
    assert "goes on" not in caplog.text
    backend.close()


@pytest.mark.slow
def test_an_interrupted_worker_is_started_again(llama, expected):
    backend = open_backend(llama, prefer="candle")
    stream = backend.stream_text(PROMPT, GREEDY)
    next(stream)
    backend.active.worker.close()  # as Ctrl-C does while an answer is read
    assert backend.generate_text(PROMPT, GREEDY) == expected["greedy"]
    assert backend.metadata().backend == "candle"
    backend.close()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "candle"])
def test_a_stream_that_another_overtook_ends(runtime, llama, expected):
    backend = open_backend(llama, prefer=runtime)
    overtaken = backend.stream_text(PROMPT, GREEDY)
    next(overtaken)
    assert backend.generate_text(PROMPT, GREEDY) == expected["greedy"]
    with pytest.raises(InferenceError, match="another sequence"):
        list(overtaken)
    assert backend.metadata().backend == runtime
    backend.close()


def test_a_folder_of_several_models_is_ambiguous(llama, make_artifact, copy):
    shutil.copytree(make_artifact("minilm", "int8-rtn").folder, copy / "minilm")
    with pytest.raises(InferenceError, match="several models"):
        open_backend(copy)
    (copy / "broken").mkdir()
    (copy / "broken" / "manifest.json").write_text("{")  # of no concern to the others
    assert open_backend(copy / "fp32").metadata().backend == "onnxruntime"


@pytest.mark.slow
def test_a_damaged_gguf_is_replaced_when_it_is_opened(copy, expected, caplog):
    (model,) = (copy / "gguf-F32").glob("*.gguf")
    content = bytearray(model.read_bytes())
    content[:200] = b"\xff" * 200  # the size stays, so the manifest holds
    model.write_bytes(content)
    backend = open_backend(copy, prefer="candle")
    assert "onnxruntime goes on" in caplog.text
    assert backend.generate_text(PROMPT, GREEDY) == expected["greedy"]


@pytest.mark.slow
def test_a_type_that_candle_does_not_know_is_replaced(llama, copy, expected, caplog):
    shutil.rmtree(copy / "gguf-F32")
    checkpoint = open_checkpoint(next((llama / "gguf-F32").glob("*.gguf")))
    artifact = export(checkpoint, "BF16", copy / "gguf-BF16")
    with pytest.raises(BackendError):
        CandleBackend(artifact.folder)
    manifest = copy / "gguf-BF16" / "manifest.json"  # of the same model as the ONNX artifact
    own = artifact.manifest.source.fingerprint
    other = open_backend(copy / "fp32").active.artifact.manifest.source.fingerprint
    manifest.write_text(manifest.read_text().replace(own, other))
    caplog.clear()
    backend = open_backend(copy, prefer="candle")
    assert "onnxruntime goes on" in caplog.text
    assert backend.generate_text(PROMPT, GREEDY) == expected["greedy"]


@pytest.mark.slow
def test_a_damaged_graph_is_replaced_by_candle(copy, expected, caplog):
    graph = copy / "fp32" / "onnx" / "model.onnx"
    graph.write_bytes(b"\0" * graph.stat().st_size)
    backend = open_backend(copy / "fp32")
    assert "candle goes on" in caplog.text
    assert "ONNX Runtime cannot load" in caplog.text
    assert backend.generate_text(PROMPT, GREEDY) == expected["greedy"]
    os.kill(backend.active.worker.process.pid, signal.SIGKILL)
    backend.active.worker.process.wait()
    with pytest.raises(BackendError, match="signal 9"):  # a second time there is nothing left
        backend.active.worker.call("reset")
    backend.close()


@pytest.mark.slow
def test_what_cannot_be_opened_says_why(llama, copy, tmp_path, caplog):
    shutil.rmtree(copy / "gguf-F32")
    backend = open_backend(copy, prefer="candle")
    assert "onnxruntime instead of candle" in caplog.text
    assert backend.metadata().backend == "onnxruntime"
    with pytest.raises(InferenceError, match="nowhere is not a folder"):
        open_backend(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InferenceError, match=r"no runtime opens .*empty: it holds no artifact"):
        open_backend(tmp_path / "empty")
    with pytest.raises(InferenceError, match="no runtime 'llama"):
        open_backend(llama, prefer="llama.cpp")
    with pytest.raises(InferenceError, match="is not a folder"):
        CandleBackend(tmp_path / "all-MiniLM-L6-v2")
    with pytest.raises(InferenceError, match="CUDAExecutionProviderX"):
        OrtBackend(backend.active.artifact, provider="CUDAExecutionProviderX")


def test_embeddings_agree_and_are_remembered(minilm_folder, make_artifact, tmp_path, caplog):
    folder = tmp_path / "minilm"
    shutil.copytree(minilm_folder, folder / "safetensors")
    shutil.copytree(make_artifact("minilm", "fp32").folder, folder / "fp32")
    texts = ["A cat sleeps.", "Stocks fell.", "A cat sleeps.", "word " * 400]
    expected = Embedder(make_artifact("minilm", "fp32")).embed(texts)
    backend = open_backend(folder, prefer="candle")
    assert backend.metadata().backend == "candle"
    np.testing.assert_allclose(backend.embed(texts), expected, atol=1e-5)
    np.testing.assert_array_equal(backend.get_embeddings(texts[0]), backend.embed(texts)[0])
    stats = backend.stats()["embeddings"]
    assert (stats.misses, stats.hits, stats.entries) == (3, 4, 3)
    with pytest.raises(InferenceError, match="generates no text"):
        backend.generate_text("Once")

    os.kill(backend.active.worker.process.pid, signal.SIGKILL)
    np.testing.assert_allclose(backend.embed([*texts, "new"])[:4], expected, atol=1e-5)
    assert "onnxruntime goes on" in caplog.text
    assert backend.metadata().backend == "onnxruntime"
    assert backend.memory_usage() > 0


@pytest.mark.slow
def test_prompts_are_tokenized_once(llama):
    backend = open_backend(llama)
    for _ in range(3):
        backend.generate_text(PROMPT, GREEDY)
    stats = backend.stats()["tokens"]
    assert (stats.hits, stats.misses) == (2, 1)
    assert stats.hit_rate == pytest.approx(2 / 3)


def test_the_real_model_answers_on_both_runtimes(smollm2_gguf, make_artifact, tmp_path):
    shutil.copytree(make_artifact("smollm2", "int8-rtn").folder, tmp_path / "int8-rtn")
    export(open_checkpoint(smollm2_gguf), "Q8_0", tmp_path / "gguf-Q8_0")
    config = GenerationConfig(temperature=0, repetition_penalty=1, max_tokens=6)
    for runtime in ("onnxruntime", "candle"):
        backend = open_backend(tmp_path, prefer=runtime)
        assert backend.metadata().backend == runtime
        assert "Paris" in backend.generate_text("The capital of France is", config)
        backend.close()
