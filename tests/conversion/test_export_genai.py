"""genai_config.json against the graph that it describes; genai itself runs in tests/interop."""

import json

import onnx

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.scheme import Scheme


def test_the_config_says_what_the_graph_has(tiny_llama, tmp_path):
    _, folder = tiny_llama
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "out")
    said = json.loads((artifact.folder / "genai_config.json").read_text())["model"]
    decoder = said["decoder"]
    assert artifact.folder / decoder["filename"] == artifact.model_path
    graph = onnx.load(artifact.model_path, load_external_data=False).graph
    optional = {tensor.name for tensor in graph.initializer}  # genai need not know of them
    inputs = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in graph.input
        if i.name not in optional
    }
    outputs = {output.name for output in graph.output}
    names, made = decoder["inputs"], decoder["outputs"]
    caches = [
        names[f"past_{part}_names"] % i
        for part in ("key", "value")
        for i in range(decoder["num_hidden_layers"])
    ]
    assert set(inputs) == {names["input_ids"], names["attention_mask"], *caches}
    heads, size = decoder["num_key_value_heads"], decoder["head_size"]
    assert all((inputs[name][1], inputs[name][3]) == (heads, size) for name in caches)
    last = decoder["num_hidden_layers"] - 1
    assert {made["logits"], made["present_key_names"] % last} <= outputs
    assert said["context_length"] == 300


def test_an_encoder_has_none(make_artifact):
    assert not (make_artifact("minilm", "int8-rtn").folder / "genai_config.json").exists()
