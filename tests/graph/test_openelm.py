"""OpenELM: our PyTorch module against plain arithmetic, and the graph against the module."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion import to_gguf as gguf
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.models import form_of
from llmkg_lab.models.base import UnsupportedError
from llmkg_lab.models.openelm import OpenELMForm
from llmkg_lab.reference.filled import load_by_layer, load_model
from llmkg_lab.reference.openelm import Dimensions, OpenELM, continue_greedily
from llmkg_lab.reference.outputs import decoder_reference
from llmkg_lab.roster.catalog import SourceSpec, find_variant
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

CONFIG = {
    "model_type": "openelm",
    "architectures": ["OpenELMForCausalLM"],
    "activation_fn_name": "swish",
    "normalization_layer_name": "rms_norm",
    "ffn_with_glu": True,
    "normalize_qk_projections": True,
    "share_input_output_layers": True,
    "vocab_size": 131,
    "model_dim": 72,  # no multiple of a block
    "head_dim": 16,
    "num_transformer_layers": 3,
    "num_query_heads": [2, 4, 6],
    "num_kv_heads": [1, 2, 2],
    "ffn_multipliers": [0.5, 1.3, 2.5],
    "ffn_dim_divisor": 16,
    "max_context_length": 64,
    "rope_max_length": 128,
    "rope_freq_constant": 10000,
}
WINDOWS = np.random.default_rng(1).integers(0, CONFIG["vocab_size"], (5, 40))


def write(folder, **changes):
    """A checkpoint whose random weights are large enough for every part to matter."""
    config = {**CONFIG, **changes}
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in OpenELMForm.read(config).tensors():
        spread = rng.standard_normal(shape, np.float32)
        tensors[name] = 1 + 0.3 * spread if len(shape) == 1 else 0.2 * spread
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("openelm") / "tiny")


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def decoder(checkpoint, tmp_path_factory):
    return to_decoder(checkpoint, tmp_path_factory.mktemp("artifact") / "fp32")


def to_decoder(checkpoint, out, scheme="fp32"):
    return Decoder(convert(checkpoint, Scheme.parse(scheme), out))


def logits_of(model, ids):
    with torch.inference_mode():
        return model(torch.as_tensor(ids)).numpy()


def plain_logits(tensors, ids):
    """The model from its description, one head and one position at a time, in float64."""

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * tensors[f"{name}.weight"]

    def turned(vector, position):
        angles = position / 10000 ** (np.arange(0, 16, 2) / 16)
        pairs = (vector[:8] + 1j * vector[8:]) * np.exp(1j * angles)
        return np.concatenate([pairs.real, pairs.imag])

    x = tensors["transformer.token_embeddings.weight"][ids].astype(np.float64)
    for i, (heads, kv_heads) in enumerate(zip([2, 4, 6], [1, 2, 2], strict=True)):
        name = f"transformer.layers.{i}"
        qkv = norm(x, f"{name}.attn_norm") @ tensors[f"{name}.attn.qkv_proj.weight"].T
        qkv = qkv.reshape(len(ids), heads + 2 * kv_heads, 16)
        attended = np.zeros((len(ids), heads, 16))
        for head in range(heads):
            group = head // (heads // kv_heads)
            q = norm(qkv[:, head], f"{name}.attn.q_norm")
            k = norm(qkv[:, heads + group], f"{name}.attn.k_norm")
            v = qkv[:, heads + kv_heads + group]
            for t in range(len(ids)):
                scores = [turned(q[t], t) @ turned(k[s], s) / 4 for s in range(t + 1)]
                weights = np.exp(scores) / np.exp(scores).sum()
                attended[t, head] = weights @ v[: t + 1]
        x = x + attended.reshape(len(ids), -1) @ tensors[f"{name}.attn.out_proj.weight"].T
        both = norm(x, f"{name}.ffn_norm") @ tensors[f"{name}.ffn.proj_1.weight"].T
        gate, up = np.split(both, 2, -1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ tensors[f"{name}.ffn.proj_2.weight"].T
    return norm(x, "transformer.norm") @ tensors["transformer.token_embeddings.weight"].T


def test_the_module_computes_the_model_s_description(checkpoint, model):
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    expected = plain_logits(tensors, WINDOWS[0])
    np.testing.assert_allclose(logits_of(model, WINDOWS[:1])[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_input_output_layers": False},
        {"normalize_qk_projections": False},
        {"rope_freq_constant": 500},
    ],
    ids=["as published", "untied head", "queries and keys as they are", "rope base"],
)
def test_the_graph_computes_what_the_module_computes(changes, tmp_path):
    checkpoint = write(tmp_path / "checkpoint", **changes)
    expected = logits_of(load_model(checkpoint), WINDOWS)
    actual = to_decoder(checkpoint, tmp_path / "fp32").logits(WINDOWS)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_each_layer_has_kv_heads_of_its_own(decoder):
    shapes = {i.name: i.shape for i in decoder.session.get_inputs()}
    heads = [shapes[f"past_key_values.{i}.key"][1] for i in range(3)]
    assert heads == CONFIG["num_kv_heads"]


def test_token_by_token_is_one_go(model, decoder):
    expected = logits_of(model, WINDOWS[:1])[0]
    decoder.reset()
    np.testing.assert_allclose(decoder.prefill(WINDOWS[0, :7]), expected[6], rtol=0, atol=1e-4)
    for i in range(7, WINDOWS.shape[1]):
        logits = decoder.step(int(WINDOWS[0, i]))
        np.testing.assert_allclose(logits, expected[i], rtol=0, atol=1e-4)


def test_a_batch_of_unequal_lengths_is_its_sequences_alone(model, decoder):
    lengths = [40, 3, 17]
    actual = decoder.logits(WINDOWS[:3], lengths)
    for row, ids, length in zip(actual, WINDOWS, lengths, strict=False):
        expected = logits_of(model, ids[None, :length])[0]
        np.testing.assert_allclose(row[:length], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheme", ["int8-rtn", "int4-rtn"])
def test_quantized_graphs_stay_close(scheme, model, checkpoint, tmp_path):
    actual = to_decoder(checkpoint, tmp_path / scheme, scheme).logits(WINDOWS)
    expected = logits_of(model, WINDOWS)
    correlation = np.corrcoef(actual.ravel(), expected.ravel())[0, 1]
    assert correlation > {"int8-rtn": 0.998, "int4-rtn": 0.85}[scheme]


def test_greedy_continuations_are_those_of_whole_passes(model):
    prompts = [[5, 6, 7], [1, 99], [3]]
    continued = continue_greedily(model, prompts, 9)
    for prompt, tokens in zip(prompts, continued, strict=True):
        ids = list(prompt)
        for _ in range(9):
            ids.append(int(logits_of(model, [ids])[0, -1].argmax()))
        assert tokens == ids[len(prompt) :]


def test_layer_by_layer_computes_the_same(model, checkpoint):
    streamed = load_by_layer(checkpoint)
    weights = {name for name, p in streamed.named_parameters() if p.device.type == "meta"}
    assert {name for name, _ in model.named_parameters() if ".layers." in name} == weights
    for _ in range(2):  # a second pass reads the layers again
        np.testing.assert_array_equal(logits_of(streamed, WINDOWS), logits_of(model, WINDOWS))


def test_the_reference_gives_the_module_s_logits(model, checkpoint):
    reference = decoder_reference(checkpoint, WINDOWS, [[1, 2]], 4)
    expected = logits_of(model, WINDOWS[4:])[0]
    np.testing.assert_allclose(reference.logits(4), expected, rtol=0, atol=1e-5)
    assert reference.continuations == continue_greedily(model, [[1, 2]], 4)


def test_the_rule_gives_the_published_widths():
    """OpenELM-270M's lists, from the rule in its paper (section 2.2: alpha and beta)."""
    rule = {
        **CONFIG,
        "model_dim": 1280,
        "head_dim": 64,
        "num_transformer_layers": 16,
        "num_query_heads": None,
        "num_kv_heads": None,
        "num_gqa_groups": 4,
        "qkv_multipliers": [0.5, 1.0],
        "ffn_multipliers": [0.5, 4.0],
        "ffn_dim_divisor": 256,
    }
    form = OpenELMForm.read(rule)
    assert form.heads == (12,) * 5 + (16,) * 7 + (20,) * 4
    assert form.kv_heads == (3,) * 5 + (4,) * 7 + (5,) * 4
    assert form.feed_forward[0] == 768
    assert form.feed_forward[-1] == 5120
    with torch.device("meta"):
        model = OpenELM(Dimensions.read(rule, dict(form.tensors())))
    vocab = (32000 - CONFIG["vocab_size"]) * 1280
    assert sum(p.numel() for p in model.parameters()) + vocab == 271_527_168


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn_name": "gelu"}, "activation_fn_name is 'gelu'"),
        ({"normalization_layer_name": "layer_norm"}, "normalization_layer_name is 'layer_norm'"),
        ({"ffn_with_glu": False}, "ffn_with_glu is False"),
        ({"num_query_heads": [2, 4]}, "num_query_heads is not a list of 3 numbers"),
        ({"num_kv_heads": None}, "num_kv_heads is not a list of 3 numbers"),
        ({"num_kv_heads": [1, 2, 4]}, "4 KV heads do not divide the 6 heads of layer 2"),
        ({"num_kv_heads": [1, -2, 4]}, "num_kv_heads is -2"),
        ({"ffn_multipliers": [0.5, "x", 1]}, "ffn_multipliers gives no factors"),
        ({"ffn_multipliers": [0.5, 1.0, 2.0, 3.0]}, "ffn_multipliers gives no factors"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"model_dim": None}, "config.json lacks model_dim"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message):
    with pytest.raises(UnsupportedError, match=message):
        form_of({**CONFIG, **changes})


def test_a_tokenizer_is_borrowed_where_the_checkpoint_has_none(tmp_path):
    """As OpenELM borrows Llama 2's; here one of four words."""
    checkpoint = write(tmp_path / "borrower")
    vocabulary = {"[UNK]": 0, "<s>": 1, "</s>": 2, "graph": 3}
    core = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    lender = tmp_path / "lender"
    lender.mkdir()
    (lender / "config.json").write_text("{}")
    core.save(str(lender / "tokenizer.json"))
    borrows = replace(
        find_variant("openelm_270m"), tokenizer_source=SourceSpec("local", {"path": str(lender)})
    )
    fetched = fetch(borrows, str(checkpoint.path))
    assert "tokenizer of" in fetched.detail
    opened = open_checkpoint(fetched.path, fetched.tokenizer)
    assert json.loads(opened.sidecars()["tokenizer.json"])["model"]["vocab"] == vocabulary
    assert opened.config == checkpoint.config

    lender.joinpath("tokenizer.json").rename(checkpoint.path / "tokenizer.json")
    assert fetch(borrows, str(checkpoint.path)).tokenizer is None  # it has one of its own now


def test_gguf_holds_the_same_weights(checkpoint, tmp_path):
    """As llama.cpp's own converter stores them: gate and up apart, a number a layer."""
    artifact = gguf.export(checkpoint, "F32", tmp_path / "gguf")
    reader = GGUFReader(artifact.model_path)
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    both = checkpoint.read("transformer.layers.1.ffn.proj_1.weight")
    np.testing.assert_array_equal(stored.pop("blk.1.ffn_gate.weight"), both[: len(both) // 2])
    np.testing.assert_array_equal(stored.pop("blk.1.ffn_up.weight"), both[len(both) // 2 :])
    qkv = checkpoint.read("transformer.layers.2.attn.qkv_proj.weight")
    np.testing.assert_array_equal(stored["blk.2.attn_qkv.weight"], qkv)
    assert sum(data.size for data in stored.values()) + both.size == sum(
        np.prod(info.shape) for info in checkpoint.tensors.values()
    )
    heads = reader.get_field("openelm.attention.head_count_kv").contents()
    assert heads == CONFIG["num_kv_heads"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_input_output_layers": False}, "no place for the tensor lm_head"),
        ({"normalize_qk_projections": False}, "does not norm its queries"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_not_exported(changes, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message):
        gguf.export(write(tmp_path / "checkpoint", **changes), "F32", tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()
