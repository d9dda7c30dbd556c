"""The loader over real artifacts of a tiny Llama, and over a Hub on loopback."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import hub_server
from support.listed import SMOLLM2, VARIANT

from llmkg_lab.base.errors import LabError
from llmkg_lab.llmkg import (
    Cuda,
    Downloading,
    Failed,
    Loaded,
    Loading,
    LoadingConfig,
    LoadingError,
    MemoryBudgetError,
    Metal,
    ModelCapabilities,
    ModelConfig,
    ModelLoader,
    ModelMetadata,
    ModelSize,
    NotLoaded,
    Quantization,
)

GREEDY = ModelConfig(temperature=0, repetition_penalty=1, max_tokens=8)
INT8, FP32 = f"{SMOLLM2}:int8-rtn", f"{SMOLLM2}:fp32"


@pytest.fixture
def loader(registry, tmp_path):
    loader = ModelLoader(tmp_path / "cache", registry=registry)
    yield loader
    loader.close()


def test_a_model_is_loaded_by_any_of_its_names_and_answers(loader, outputs):
    assert loader.get_loading_state(SMOLLM2) == NotLoaded()
    model = loader.load_model(SMOLLM2, GREEDY)
    assert loader.get_loaded_models() == [INT8]  # the smallest that reaches its targets
    assert loader.get_loading_state(SMOLLM2) == loader.get_loading_state(VARIANT) == Loaded()
    assert loader.load_model(VARIANT).backend is loader.load_model(INT8).backend is model.backend
    text = model.generate_text("1 2 3")
    assert text
    assert "".join(model.stream_text("1 2 3")) == text
    assert model.generate_text("1 2 3", ModelConfig(temperature=0, max_tokens=2)) in text
    assert (model.is_ready(), model.memory_usage() > 0) == (True, True)
    assert model.metadata() == loader.registry.get_model(SMOLLM2)
    with pytest.raises(LabError, match="embeds no texts"):
        model.get_embeddings("1")

    metrics = model.metrics()
    assert (metrics.inferences, metrics.units) == (3, 18)
    assert 0 < metrics.avg_inference_ms <= metrics.peak_inference_ms
    assert metrics.throughput == pytest.approx(18 / 3 / metrics.avg_inference_ms * 1000)

    by_path = loader.load_model(outputs / f"smollm/{VARIANT}/artifacts/fp32", GREEDY)
    assert by_path.artifact.manifest.scheme.name == "fp32"
    assert loader.is_model_loaded(outputs / f"smollm/{VARIANT}/artifacts/fp32")
    assert loader.unload_model(SMOLLM2)
    assert (loader.is_model_loaded(INT8), model.is_ready()) == (False, False)
    with pytest.raises(LoadingError, match="was unloaded"):
        model.generate_text("1")


def test_the_wanted_artifact_is_taken_or_its_lack_is_said(registry):
    def key(**config):
        loader = ModelLoader(loading_config=LoadingConfig(**config), registry=registry)
        loader.load_model(SMOLLM2)
        return loader.get_loaded_models()

    assert key(quantization=Quantization["None"]) == [FP32]
    assert key(quantization=Quantization.Int8) == key(revision="0.1") == [INT8]
    for config, said in (
        ({"quantization": Quantization.Int4}, "no artifact Int4"),
        ({"quantization": Quantization.BFloat16}, "no artifact BFloat16"),
        ({"revision": "0.2"}, "no artifact 0.2"),
        ({"device": Cuda()}, "CUDAExecutionProvider"),
    ):
        with pytest.raises(LabError, match=said):
            key(**config)
    wrong = [{"trust_remote_code": True}, {"device": Metal()}, {"device": Cuda(1)}]
    wrong += [{"revision": "../x"}, {"revision": ".."}, {"revision": "a/../b"}, {"batch_size": 0}]
    for config in wrong:
        with pytest.raises(LoadingError):
            LoadingConfig(**config)


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instructs", "did you mean"),
        (f"{SMOLLM2}:int4", "there is fp32, int8-rtn"),
        ("HuggingFaceTB/SmolLM-135M", "llmkg-lab run smollm_135m"),
        ("/etc", "unknown model"),
        ("", "unknown model"),
        (Path("/nowhere"), "not an artifact"),
    ],
)
def test_what_cannot_be_loaded_is_said_with_a_way_out(id, said, loader):
    with pytest.raises(LabError, match=said):
        loader.load_model(id)
    assert loader.get_loading_state(id) == NotLoaded()
    assert not loader.unload_model(id)


def test_a_damaged_artifact_is_refused_until_it_is_mended(loader, outputs):
    folder = outputs / f"smollm/{VARIANT}/artifacts/int8-rtn"
    data = next(folder.glob("onnx/*.onnx*"))
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LoadingError, match="SHA-256 differs"):
        loader.load_model(INT8)
    assert isinstance(loader.get_loading_state(INT8), Failed)
    data.write_bytes(content)
    steps = []
    loader.load_model(INT8, progress=steps.append)
    assert steps[-1].is_over
    assert {step.name for step in steps} == {"verification"}
    loader.unload_model(INT8)
    loader.load_model(INT8, progress=steps.clear)  # nothing was touched: not read again
    assert steps
    loader.unload_model(INT8)
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + " ")
    with pytest.raises(LoadingError, match="not the artifact that the registry lists"):
        loader.load_model(INT8)


def test_the_budget_evicts_what_rests_and_refuses_beside_what_runs(registry):
    """Measured peaks of 90 MB each count, although the tiny models take less."""
    loader = ModelLoader(registry=registry, memory_budget=150_000_000)
    first = loader.load_model(INT8, GREEDY)
    assert loader.loaded_bytes() == 90_000_000
    with loader.using(FP32):
        assert loader.get_loaded_models() == [FP32]
        assert not first.is_ready()
        with pytest.raises(MemoryBudgetError, match=rf"{FP32}, in use"):
            loader.load_model(INT8)
    stream = loader.load_model(INT8, GREEDY).stream_text("1 2 3")
    pieces = [next(stream)]
    with pytest.raises(MemoryBudgetError):
        loader.load_model(FP32)
    pieces.extend(stream)
    assert len("".join(pieces).split()) == 8
    assert loader.load_model(FP32).is_ready()


def test_many_threads_load_use_and_unload(registry):
    loader = ModelLoader(registry=registry, memory_budget=150_000_000)
    expected = {
        id: ModelLoader(registry=registry).load_model(id).generate_text("5 6", GREEDY)
        for id in (INT8, FP32)
    }
    refused = []

    def work(n):
        id = (INT8, FP32)[n % 2]
        try:
            with loader.using(id) as model:
                assert model.generate_text("5 6", GREEDY) == expected[id]
        except MemoryBudgetError:
            refused.append(n)
        if n % 7 == 0:
            loader.unload_model(id)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(60)))
    assert len(refused) < 60
    assert loader.loaded_bytes() <= 150_000_000


def published(id="someone/tiny-llama", **more):
    return ModelMetadata(
        name="Tiny", family="tiny", parameters=100_000, size_category=ModelSize.Tiny,
        huggingface_id=id, architecture="llama", context_length=300, vocab_size=131,
        capabilities=ModelCapabilities(text_generation=True), **more,
    )  # fmt: skip


@pytest.fixture
def hub(llama_artifacts, monkeypatch):
    """A Hub that has the int8 artifact as a repository, and both in one."""
    folder = llama_artifacts["int8-rtn"].folder
    with hub_server.serving({"someone/tiny-llama": folder, "someone/both": folder.parent}) as hub:
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        constants = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield hub


@pytest.mark.slow
def test_an_artifact_comes_from_the_hub_once_and_resumes(hub, registry, loader):
    registry.register_model(published())
    id, states = "someone/tiny-llama", []
    hub.faults.append(hub_server.Fault(r"GET .*/stored/.*\.onnx_data|GET .*stored.*onnx", cut=5000))
    hub.faults[0].times = 1

    def watch(step):
        states.append(loader.get_loading_state(id))

    model = loader.load_model(id, GREEDY, progress=watch)
    assert any(isinstance(state, Downloading) for state in states)
    assert Downloading(100.0) in states
    assert states[-1] == Loading()
    assert model.generate_text("1 2 3")
    assert loader.list_cached_models() == [id]
    size = loader.get_cache_size()
    assert size > model.artifact.nbytes
    loader.unload_model(id)
    asked = len(hub.requests)
    assert loader.load_model(id).is_ready()
    assert len(hub.requests) == asked
    loader.unload_model(id)
    assert loader.clear_model_cache(id) == size == size + loader.get_cache_size()
    assert (loader.list_cached_models(), loader.clear_all_cache()) == ([], 0)


@pytest.mark.slow
def test_of_several_artifacts_in_a_repository_one_is_named(hub, registry, loader):
    registry.register_model(published("someone/both"))
    with pytest.raises(LoadingError, match="found fp32, int8-rtn"):
        loader.load_model("someone/both")
    assert loader.load_model("someone/both:fp32").artifact.manifest.scheme.name == "fp32"
    assert not any("int8-rtn" in path for _, path, _ in hub.requests if "/resolve/" in path)
    with pytest.raises(LoadingError, match="no artifact int2"):
        loader.load_model("someone/both:int2")


def test_only_registered_models_are_asked_of_the_hub(hub, loader):
    for id in ("someone/tiny-llama", "HuggingFaceTB/SmolLM-135M"):
        with pytest.raises(LoadingError):
            loader.load_model(id)
    assert hub.requests == []


def test_a_registered_folder_is_loaded(llama_artifacts, registry, loader):
    folder = llama_artifacts["fp32"].folder.parent
    registry.register_model(published("own/model", path=str(folder)))
    assert loader.load_model("own/model:fp32").is_ready()
    assert loader.get_loaded_models() == ["own/model:fp32"]
    assert loader.is_model_loaded("own/model")
