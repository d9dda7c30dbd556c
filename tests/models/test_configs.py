"""What config.json may say: read as transformers reads it, or refused by the key's name."""

import json
import time

import numpy as np
import psutil
import pytest
import torch
import transformers
from safetensors.numpy import save_file
from support import tiny_checkpoints

from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.models import UnsupportedError, form_of
from llmkg_lab.models.rope import Rope
from llmkg_lab.scheme import Scheme

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
}
OPENELM = {
    "model_type": "openelm",
    "architectures": ["OpenELMForCausalLM"],
    "vocab_size": 64,
    "model_dim": 64,
    "head_dim": 16,
    "num_transformer_layers": 1,
    "num_query_heads": [4],
    "num_kv_heads": [2],
    "ffn_multipliers": [1.0],
    "ffn_dim_divisor": 16,
    "max_context_length": 128,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 2e4},
        {
            "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e4},
        },
        {"rope_scaling": LLAMA3, "rope_theta": 5e5},  # the original length is filled in
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 32}},
        {"rope_scaling": LLAMA3, "original_max_position_embeddings": 64},
        {"rope_scaling": None, "rope_theta": 1e5},
    ],
)
def test_rotary_frequencies_are_those_of_transformers(keys):
    config = transformers.LlamaConfig.from_dict(json.loads(json.dumps(LLAMA | keys)))
    theirs = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config).inv_freq
    ours = Rope.read(LLAMA | keys).inverse_frequencies(16)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


HOSTILE = [
    (LLAMA, {"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000, but the checkpoint"),
    (BERT, {"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000, but the checkpoint"),
    (OPENELM, {"num_transformer_layers": 10**9}, "num_transformer_layers is 1,000,000,000"),
    (LLAMA, {"head_dim": 2**30}, "q_proj.weight has the shape"),
    (LLAMA, {"num_key_value_heads": 3}, "3 key-value heads do not divide the 4 heads"),
    (LLAMA, {"num_attention_heads": 128, "num_key_value_heads": 2}, "128 heads do not divide 64"),
    (LLAMA, {"rope_theta": -1.0}, "rope_theta is -1.0"),
    (LLAMA, {"rope_theta": float("nan")}, "rope_theta is nan"),
    (LLAMA, {"rope_theta": [1]}, r"rope_theta is \[1\]"),
    (LLAMA, {"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    (LLAMA, {"rope_scaling": {"type": "linear"}}, "factor is None"),
    (LLAMA, {"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
    (LLAMA, {"rope_scaling": {"type": ["linear"]}}, r"type \['linear'\]"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    (LLAMA, {"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
    (LLAMA, {"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
    (BERT, {"layer_norm_eps": -1e-5}, "layer_norm_eps is -1e-05"),
    (LLAMA, {"max_position_embeddings": 10**8}, "max_position_embeddings is 100,000,000"),
    (LLAMA, {"max_position_embeddings": 1}, "max_position_embeddings is 1"),
    (LLAMA, {"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'"),
    (LLAMA, {"architectures": [3]}, r"architectures is \[3\]"),
    (LLAMA, {"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel' is not supported"),
    (LLAMA, {"model_type": ["llama"]}, r"model_type \['llama'\]"),
    (LLAMA, {"hidden_act": ["silu"]}, r"hidden_act is \['silu'\]"),
    (LLAMA, {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    (BERT, {"id2label": ["a"]}, r"id2label is \['a'\]"),
    (OPENELM, {"share_input_output_layers": 2}, "share_input_output_layers is 2"),
    (OPENELM, {"rope_freq_constant": "x"}, "rope_freq_constant is 'x'"),
]


@pytest.mark.parametrize(("config", "change", "message"), HOSTILE)
def test_what_no_model_can_be_is_refused_at_once(config, change, message, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = dict(form_of(config).tensors())
    save_file(
        {name: np.ones(shape, np.float32) for name, shape in tensors.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config | change))
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    with pytest.raises(LabError, match=message):
        convert(open_checkpoint(folder), Scheme.parse("int4-rtn"), tmp_path / "out")
    assert time.perf_counter() - start < 5
    assert psutil.Process().memory_info().rss - before < 500e6
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_null_is_transformers_default():
    changes = {"attention_bias": None, "mlp_bias": None, "rms_norm_eps": None, "head_dim": None}
    assert form_of(LLAMA | changes).epsilon == transformers.LlamaConfig().rms_norm_eps


def test_pretraining_parallelism_changes_nothing(tmp_path):
    """transformers ignores ``pretraining_tp``: the weights are whole."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(LLAMA))
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pretraining_tp": 2}))
    convert(open_checkpoint(tmp_path / "model"), Scheme.parse("int4-rtn"), tmp_path / "out")


def test_labels_are_counted_as_transformers_counts_them():
    ranker = BERT | {"architectures": ["BertForSequenceClassification"]}
    for change in ({"num_labels": 1}, {"id2label": {"0": "x"}}, {}, {"num_labels": 3}):
        theirs = transformers.BertConfig.from_dict(ranker | change).num_labels
        assert form_of(ranker | change).labels == theirs
    with pytest.raises(UnsupportedError):
        form_of(ranker | {"num_labels": -1})


def test_a_gguf_file_of_a_thousand_million_layers_is_refused_at_once(tmp_path):
    def add(writer):
        writer.kv_data[0]["llama.block_count"].value = 10**9

    tiny_checkpoints.write_gguf(tmp_path, add=add)
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    with pytest.raises(LabError, match="is 1,000,000,000, but the checkpoint holds"):
        convert(
            open_checkpoint(tmp_path / "model.gguf"), Scheme.parse("int4-rtn"), tmp_path / "out"
        )
    assert time.perf_counter() - start < 5
    assert psutil.Process().memory_info().rss - before < 500e6
