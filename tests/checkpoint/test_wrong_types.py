"""Kinds that mutation (tests/fuzz) found: files whose keys have types that nothing expects."""

import json

import numpy as np
import pytest
from fuzz import formats

from llmkg_lab.artifact import Artifact, ArtifactError
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import CheckpointError, open_checkpoint, tokenizer_config
from llmkg_lab.conversion.to_gguf import export
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.models import UnsupportedError, form_of
from llmkg_lab.runtime import BackendError, InferenceError
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.text.tokenizer import Tokenizer

TYPES = [
    ({"chat_template": True}, "chat_template"),
    ({"chat_template": [{"name": "default"}]}, r"chat_template\[0\]"),
    ({"chat_template": {"default": 3}}, "chat_template"),
    ({"model_input_names": 3}, "model_input_names"),
    ({"model_max_length": "long"}, "model_max_length"),
    ({"model_max_length": 10**400}, "model_max_length"),
    ({"truncation_side": "both"}, "both"),
    ({"bos_token": ["<s>"]}, "bos_token"),
    ({"eos_token": {"special": True}}, "eos_token"),
    ({"eos_token": "\ud800"}, "surrogate"),
    ([], "array"),
]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    formats.FORMATS["gguf-export"].make(folder)
    return folder


def changed(folder, name, **content):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    return open_checkpoint(folder)


@pytest.mark.parametrize(("content", "named"), TYPES)
def test_a_wrong_type_in_tokenizer_config_is_named_wherever_it_is_read(content, named, folder):
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(InferenceError, match=named):
        Tokenizer.from_folder(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        export(open_checkpoint(folder), "Q8_0", folder.parent / "out")
    assert not (folder.parent / "out").exists()


def test_null_stands_for_the_default(folder):
    plain = Tokenizer.from_folder(folder).encode_batch(["a b"], 4)
    null = dict.fromkeys(("model_input_names", "truncation_side", "chat_template"))
    changed(folder, "tokenizer_config.json", **null)
    again = Tokenizer.from_folder(folder).encode_batch(["a b"], 4)
    assert {name: ids.tolist() for name, ids in again.items()} == {
        name: ids.tolist() for name, ids in plain.items()
    }


def test_templates_by_name():
    by_name = {"default": "a", "tool": "b"}
    listed = [{"name": name, "template": text} for name, text in by_name.items()]
    for stored in (by_name, listed):
        assert tokenizer_config.templates({"chat_template": stored}) == by_name
    assert tokenizer_config.templates({"chat_template": "a"}) == {"default": "a"}
    assert tokenizer_config.templates({}) == {}


def test_several_templates_without_a_default_are_named(folder):
    named = [{"name": "tool", "template": "x"}, {"name": "rag", "template": "y"}]
    changed(folder, "tokenizer_config.json", chat_template=named)
    with pytest.raises(InferenceError, match="has chat templates for tool, rag alone"):
        Tokenizer.from_folder(folder).chat([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    "content",
    [
        {"added_tokens": ["<s>"]},
        {"added_tokens": {"<s>": 1}},
        {"normalizer": {"type": "Sequence", "normalizers": 3}},
        {"decoder": {"type": "Sequence", "decoders": ["Fuse"]}},
    ],
)
def test_lists_of_a_tokenizer_hold_objects(content, folder):
    with pytest.raises(CheckpointError, match="not a list of objects"):
        changed(folder, "tokenizer.json", **content).warnings  # noqa: B018


def test_half_a_character_is_no_text(folder):
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON: .*surrogate"):
        changed(folder, "config.json", model_name="\ud800")
    assert changed(folder, "config.json", model_name="\U0001f642").warnings is not None


@pytest.mark.parametrize("value", [10**400, 1e308, 1e-320, 2.0**-150])
def test_numbers_that_float32_does_not_hold_are_refused(value):
    for config, key in ((formats.LLAMA, "rope_theta"), (formats.BERT, "layer_norm_eps")):
        with pytest.raises(UnsupportedError, match=f"{key} is .*, not a positive number"):
            form_of(config | {key: value})


def test_the_positions_of_an_artifact_are_those_of_its_architecture(tmp_path):
    """Other keys of config.json say nothing of them."""
    source = tmp_path / "model"
    source.mkdir()
    formats.checkpoint(source, formats.OPENELM | {"max_position_embeddings": "many"})
    artifact = convert(open_checkpoint(source), formats.RTN, tmp_path / "out")
    assert artifact.context_length == formats.OPENELM["max_context_length"]


def test_prompts_are_texts_by_name(tmp_path):
    formats.FORMATS["sentence-transformers"].make(tmp_path)
    for prompts in ("query: ", ["query: "], {"query": 3}, 7):
        with pytest.raises(CheckpointError, match="prompts are not texts by name"):
            changed(tmp_path, "config_sentence_transformers.json", prompts=prompts).pooling  # noqa: B018


@pytest.fixture
def embedder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    formats.FORMATS["sentence-transformers"].make(source)
    return convert(open_checkpoint(source), formats.RTN, tmp_path / "embedder")


def test_a_wrong_count_of_segments_is_told(embedder):
    path = embedder.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"type_vocab_size": "two"}))
    with pytest.raises(ArtifactError, match="type_vocab_size is 'two'"):
        Embedder(Artifact(embedder.folder, embedder.manifest), 1).embed(["a"])


def test_a_graph_that_loads_and_does_not_run_is_told(embedder):
    """An axis that no tensor has: as it loads a graph, ONNX Runtime looks at its last 32 bits."""
    import onnx

    graph = onnx.load(embedder.model_path, load_external_data=False)
    split = next(node for node in graph.graph.node if node.op_type == "Split")
    next(a for a in split.attribute if a.name == "axis").i = -(2**39) - 1
    embedder.model_path.write_bytes(graph.SerializeToString())
    model = Embedder(embedder, 1)
    with pytest.raises(BackendError, match="ONNX Runtime fails on the graph"):
        model.embed(["a b"])
    assert issubclass(BackendError, LabError)


def test_a_decoder_with_too_few_positions_in_its_graph_is_told(tiny_llama_of_numbers, tmp_path):
    """Which ONNX Runtime says by an error that is not of its own classes."""
    import onnx
    from onnx import numpy_helper

    artifact = convert(tiny_llama_of_numbers, formats.RTN, tmp_path / "decoder")
    graph = onnx.load(artifact.model_path, load_external_data=False)
    name = f"position_{artifact.context_length}"
    (positions,) = (t for t in graph.graph.initializer if t.name.endswith(name))
    positions.CopyFrom(numpy_helper.from_array(np.array(2), positions.name))
    artifact.model_path.write_bytes(graph.SerializeToString())
    with pytest.raises(BackendError, match="ONNX Runtime fails on the graph"):
        Decoder(artifact).prefill([1, 2, 3])


@pytest.mark.parametrize("name", [b"attention_mask", b"batch_size"])  # of an input, of its size
def test_a_name_that_is_no_text_is_told(embedder, name):
    content = embedder.model_path.read_bytes()
    embedder.model_path.write_bytes(content.replace(name, b"\xbb" + name[1:]))
    with pytest.raises(InferenceError, match="ONNX Runtime cannot load"):
        Embedder(embedder, 1)


@pytest.mark.parametrize("positions", [10**9, 0, True, "64", 2**63])
def test_an_artifact_of_any_number_of_positions_takes_no_memory(positions, folder):
    """Whoever changes its config.json can change the hash in its manifest, too."""
    artifact = convert(changed(folder, "config.json"), formats.RTN, folder.parent / "out")
    path = artifact.folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": positions})
    )
    with pytest.raises(ArtifactError, match="max_position_embeddings is"):
        Decoder(artifact, 1)
