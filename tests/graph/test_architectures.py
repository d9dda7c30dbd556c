"""Each graph against transformers on tiny random models of every supported form."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from llmkg_lab.checkpoint import CheckpointError, open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.models.base import UnsupportedError
from llmkg_lab.quantize.blocks.rounding import round_to_nearest
from llmkg_lab.scheme import Scheme

LLAMA = {
    "vocab_size": 131,
    "hidden_size": 144,  # no multiple of a block
    "intermediate_size": 208,
    "num_hidden_layers": 3,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
}
LLAMA_FORMS = {
    "untied head": {},
    "tied head": {"tie_word_embeddings": True},
    "one key-value head": {"num_key_value_heads": 1},
    "as many key-value heads": {"num_key_value_heads": 9},
    "head_dim of its own": {"head_dim": 32},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "rope base": {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    "rope linear": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    },
    "rope dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    },
    "rope llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}
BERT = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
}


def save(model, folder):
    """A random model whose weights are large enough for every part to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.1 * noise if "norm" in name.lower() else 0.15 * noise)
    model.tie_weights()
    model.eval().save_pretrained(folder)
    return model


def run(artifact, feed):
    session = onnxruntime.InferenceSession(artifact.model_path)
    for entry in session.get_inputs():
        if entry.name.startswith("past_key_values"):
            batch, (_, kv_heads, _, head_dim) = len(feed["input_ids"]), entry.shape
            feed[entry.name] = np.zeros((batch, kv_heads, 0, head_dim), np.float32)
    names = [entry.name for entry in session.get_outputs() if "present" not in entry.name]
    return dict(zip(names, session.run(names, feed), strict=True))


def batch(vocab, types=False):
    """Three sequences of unequal lengths, padded at the right."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, vocab, (3, 20))
    mask = (np.arange(20) < np.array([[20], [13], [1]])).astype(np.int64)
    feed = {"input_ids": ids * mask, "attention_mask": mask}
    return feed | ({"token_type_ids": rng.integers(0, 2, ids.shape)} if types else {})


@pytest.mark.slow
@pytest.mark.parametrize("form", LLAMA_FORMS)
def test_llama_computes_what_transformers_computes(form, tmp_path):
    config = transformers.LlamaConfig(**{**LLAMA, **LLAMA_FORMS[form]})
    model = save(transformers.LlamaForCausalLM(config), tmp_path / "model")
    artifact = convert(open_checkpoint(tmp_path / "model"), Scheme.parse("fp32"), tmp_path / "out")
    feed = batch(config.vocab_size)
    with torch.no_grad():
        expected = model(**{k: torch.tensor(v) for k, v in feed.items()}).logits.numpy()
    real = feed["attention_mask"].astype(bool)
    logits = run(artifact, feed)["logits"]
    assert np.abs(expected[real]).max() > 1
    np.testing.assert_allclose(logits[real], expected[real], atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp16", "int8-rtn", "int8-b64-sym", "int4-b128", "int4-sym-e4"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_graph_computes_with_the_dequantized_weights(name, tied, tmp_path):
    """transformers, given the stored weights, differs only by the activations' 8 bits."""
    config = transformers.LlamaConfig(**LLAMA, tie_word_embeddings=tied)
    model = save(transformers.LlamaForCausalLM(config), tmp_path / "model")
    scheme = Scheme.parse(name)
    artifact = convert(open_checkpoint(tmp_path / "model"), scheme, tmp_path / "out")
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.copy_(torch.tensor(stored(key, weight.numpy(), scheme, tied)))
    feed = batch(config.vocab_size)
    with torch.no_grad():
        expected = model(**{k: torch.tensor(v) for k, v in feed.items()}).logits.numpy()
    real = feed["attention_mask"].astype(bool)
    error = run(artifact, feed)["logits"][real] - expected[real]
    relative = np.linalg.norm(error) / np.linalg.norm(expected[real])
    assert relative < (0.001 if name == "fp16" else 0.1)


def stored(name, weight, scheme, tied):
    if scheme.base == "fp16":
        return weight.astype(np.float16).astype(np.float32)
    is_table, is_head = "embed" in name, "lm_head" in name
    layout = scheme.table(is_head=is_head or tied) if is_table or is_head else scheme.linear()
    return round_to_nearest(weight, layout).dequantize()


@pytest.mark.parametrize("kind", ["feature-extraction", "text-ranking"])
def test_bert_computes_what_transformers_computes(kind, tmp_path):
    config = transformers.BertConfig(**BERT, num_labels=1)
    ranking = kind == "text-ranking"
    model_class = transformers.BertForSequenceClassification if ranking else transformers.BertModel
    model = save(model_class(config), tmp_path / "model")
    artifact = convert(open_checkpoint(tmp_path / "model"), Scheme.parse("fp32"), tmp_path / "out")
    assert artifact.task == kind
    feed = batch(config.vocab_size, types=True)
    with torch.no_grad():
        expected = model(**{k: torch.tensor(v) for k, v in feed.items()}, output_hidden_states=True)
    outputs, real = run(artifact, feed), feed["attention_mask"].astype(bool)
    hidden = expected.hidden_states[-1].numpy()
    np.testing.assert_allclose(outputs["last_hidden_state"][real], hidden[real], atol=1e-5)
    if ranking:
        np.testing.assert_allclose(outputs["logits"], expected.logits.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "type 'yarn'"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported"),
        ({"num_hidden_layers": 4}, "lacks the tensor model.layers.3"),
        ({"num_hidden_layers": 2}, "have no place in a plain llama"),
        ({"intermediate_size": 96}, r"has the shape \(208, 144\)"),
        ({"hidden_size": -144}, "hidden_size is -144"),
        ({"num_attention_heads": 18, "num_key_value_heads": 6, "head_dim": 8}, "head_dim is 8"),
        ({"vocab_size": None}, "lacks vocab_size"),
    ],
)
def test_what_is_not_supported_is_refused_before_any_work(change, message, tmp_path):
    config = transformers.LlamaConfig(**LLAMA)
    save(transformers.LlamaForCausalLM(config), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((UnsupportedError, CheckpointError), match=message):
        convert(open_checkpoint(tmp_path / "model"), Scheme.parse("int4-rtn"), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
