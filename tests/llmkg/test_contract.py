"""LLMKG's contract, name by name: what a consumer that knows LLMKG may write.

The tables say what the contract says. A signature may have more parameters than stand here, as
long as each of them has a default.
"""

import dataclasses
import inspect
import re
import subprocess
import sys
import typing

import pytest

from llmkg_lab import llmkg
from llmkg_lab.llmkg import LoadedModel, LoadingConfig, LoadingError, ModelConfig, ModelLoader

METHODS = """
ModelRegistry.list_models()
ModelRegistry.list_models_by_size(size)
ModelRegistry.list_models_by_family(family)
ModelRegistry.list_models_with_capability(predicate)
ModelRegistry.get_model(huggingface_id)
ModelRegistry.search_models(query)
ModelRegistry.list_models_in_parameter_range(min, max)
ModelRegistry.get_smallest_model()
ModelRegistry.get_largest_model()
ModelRegistry.get_recommended_models()
ModelRegistry.get_statistics()
ModelRegistry.register_model(metadata)
ModelRegistry.unregister_model(id)
ModelRegistry.is_registered(id)
ModelRegistry.model_count()
ModelRegistry.filter_models(filter)
ModelLoader(cache_dir, loading_config)
ModelLoader.load_model(model_id, config=None)
ModelLoader.unload_model(id)
ModelLoader.get_loading_state(id)
ModelLoader.get_loaded_models()
ModelLoader.is_model_loaded(id)
ModelLoader.clear_model_cache(id)
ModelLoader.clear_all_cache()
ModelLoader.get_cache_size()
ModelLoader.list_cached_models()
ModelBackend.generate_text(prompt, config)
ModelBackend.get_embeddings(text)
ModelBackend.is_ready()
ModelBackend.memory_usage()
ModelBackend.metadata()
estimate_memory_requirements(parameters, precision)
assess_device_compatibility(parameters)
recommend_model(models, requirements)
"""
FIELDS = {
    "ModelMetadata": "name family parameters size_category huggingface_id architecture capabilities"
    " context_length vocab_size training_tokens release_date license description",
    "ModelCapabilities": "text_generation instruction_following chat code_generation reasoning"
    " multilingual",
    "ModelFilter": "families size_categories min_parameters max_parameters capabilities licenses",
    "RecommendedModels": "best_overall best_chat most_efficient best_embeddings best_multilingual"
    " latest",
    "RegistryStatistics": "total_models total_families size_distribution capability_stats"
    " total_parameters average_parameters",
    "LoadingConfig": "device quantization batch_size cache_dir trust_remote_code revision",
    "ModelConfig": "temperature top_k top_p repetition_penalty max_tokens seed stop_tokens"
    " custom_parameters",
    "InferenceMetrics": "avg_inference_ms peak_inference_ms throughput memory_mb",
    "Downloading": "percent",
    "Failed": "reason",
    "Cuda": "index",
}
DEFAULTS = {
    "ModelConfig": {
        "temperature": 0.7,
        "top_k": 50,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "max_tokens": 1024,
        "seed": None,
        "stop_tokens": ("</s>", "<|endoftext|>"),
        "custom_parameters": {},
    },
    "LoadingConfig": {"trust_remote_code": False, "revision": None, "device": llmkg.Cpu()},
}
MEMBERS = {
    "ModelSize": ["Tiny", "Small", "Medium", "Large"],
    "Quantization": ["None", "Int8", "Int4", "F16", "BFloat16"],
}
UNIONS = {
    "LoadingState": ["NotLoaded", "Downloading", "Loading", "Loaded", "Failed"],
    "Device": ["Cpu", "Cuda", "Metal"],
}


@pytest.mark.parametrize("line", METHODS.split("\n")[1:-1])
def test_every_method_takes_what_the_contract_gives_it(line):
    path, _, rest = line.partition("(")
    owner = llmkg
    for name in path.split("."):
        owner = getattr(owner, name)
    signature = inspect.signature(owner)
    own = [p for p in signature.parameters.values() if p.name != "self"]
    wanted = [part.strip().partition("=") for part in rest[:-1].split(",") if part]
    assert [p.name for p in own[: len(wanted)]] == [name for name, _, _ in wanted]
    for parameter, (_, _, default) in zip(own, wanted, strict=False):
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if default:
            assert repr(parameter.default) == default
    assert all(p.default is not p.empty for p in own[len(wanted) :])


@pytest.mark.parametrize("name", FIELDS)
def test_every_record_has_the_contracts_fields_in_its_order(name):
    fields = dataclasses.fields(getattr(llmkg, name))
    wanted = FIELDS[name].split()
    assert [field.name for field in fields][: len(wanted)] == wanted


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_the_contracts(kind):
    config = getattr(llmkg, kind)()
    assert {name: getattr(config, name) for name in DEFAULTS[kind]} == DEFAULTS[kind]


def test_enums_and_unions_have_the_contracts_members():
    for name, members in MEMBERS.items():
        assert [member.name for member in getattr(llmkg, name)] == members
        assert all(getattr(llmkg, name)[member].value == member for member in members)
    for name, members in UNIONS.items():
        assert [kind.__name__ for kind in typing.get_args(getattr(llmkg, name))] == members


def test_a_loaded_model_is_a_model_backend():
    for name in ("generate_text", "get_embeddings", "is_ready", "memory_usage", "metadata"):
        mine, theirs = getattr(LoadedModel, name), getattr(llmkg.ModelBackend, name)
        assert list(inspect.signature(mine).parameters) == list(
            inspect.signature(theirs).parameters
        )
    assert inspect.signature(ModelLoader.load_model).return_annotation is LoadedModel


def test_all_names_are_public():
    walked = {re.match(r"\w+", line)[0] for line in METHODS.split("\n")[1:-1]}
    unions = {name for union in UNIONS.values() for name in union}
    assert {*walked, *FIELDS, *DEFAULTS, *MEMBERS, *UNIONS, *unions} <= set(llmkg.__all__)
    assert set(llmkg.__all__) <= set(dir(llmkg))


def test_remote_code_is_refused_however_it_is_asked_for():
    for asked in (True, 1, "yes", None):
        with pytest.raises(LoadingError, match="no code beside weights is ever run"):
            LoadingConfig(trust_remote_code=asked)


def test_what_no_runtime_reads_is_refused_by_name():
    with pytest.raises(LoadingError, match="min_p"):
        ModelConfig(custom_parameters={"min_p": 0.1}).generation()
    config = ModelConfig(stop_tokens=("</s>", "END"), seed=3).generation()
    assert (config.stop_tokens, config.seed, config.max_tokens) == (("END",), 3, 1024)


def test_the_base_install_is_enough():
    """Neither PyTorch nor a server's packages are imported, ONNX Runtime not before a model is."""
    code = """
import sys
from llmkg_lab.llmkg import ModelLoader, ModelRegistry
assert ModelRegistry().model_count() >= 30
heavy = {"torch", "transformers", "fastapi", "uvicorn", "numba", "onnxruntime", "tokenizers"}
print(sorted(heavy & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
