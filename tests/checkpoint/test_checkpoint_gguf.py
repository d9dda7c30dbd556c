"""GGUF files: header, tensors and configs against the gguf package and transformers."""

import struct

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tiny_checkpoints import finish_gguf, permute, write_gguf

from llmkg_lab.checkpoint import CheckpointError, open_checkpoint
from llmkg_lab.checkpoint.gguf_file import read_header
from llmkg_lab.models.base import UnsupportedError

Kind = gguf.GGMLQuantizationType


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_types_dequantize_as_the_gguf_package_does(kind, tmp_path):
    write_gguf(tmp_path, Kind[kind])
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    up = stored["blk.0.ffn_up.weight"]
    expected = dequantize(up.data, up.tensor_type)
    read = checkpoint.read("model.layers.0.mlp.up_proj.weight")
    np.testing.assert_array_equal(read, expected)
    q = checkpoint.read("model.layers.0.self_attn.q_proj.weight")
    stored_q = stored["blk.0.attn_q.weight"]
    np.testing.assert_array_equal(permute(q, 4), dequantize(stored_q.data, stored_q.tensor_type))
    part = checkpoint.read("model.layers.0.self_attn.q_proj.weight", slice(5, 29))
    np.testing.assert_array_equal(part, q[5:29])


@pytest.mark.parametrize(
    "kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_S", "MXFP4", "TQ2_0"]
)
def test_types_that_only_llama_cpp_writes(kind, tmp_path):
    """Any bytes are a tensor; below 0x7c none of them makes a scale infinite or NaN."""
    block, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    rng = np.random.default_rng(0)
    data = rng.integers(0, 0x70, (8, 512 // block * size), dtype=np.uint8)
    writer = tiny_writer(tmp_path / "model.gguf")
    writer.add_tensor("token_embd.weight", data, raw_dtype=Kind[kind])
    finish_gguf(writer)
    checkpoint = open_checkpoint(tmp_path)
    name = "model.embed_tokens.weight"
    assert checkpoint.tensors[name].shape == (8, 512)
    assert checkpoint.tensors[name].dtype == kind
    expected = dequantize(data, Kind[kind])
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(checkpoint.read(name), expected)
    np.testing.assert_array_equal(checkpoint.read(name, slice(3, 7)), expected[3:7])


def tiny_writer(path, architecture="llama", **changes):
    """The least metadata that a Llama needs; None leaves a key out."""
    metadata = {
        "llama.block_count": 1,
        "llama.context_length": 32,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        **changes,
    }
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in metadata.items():
        if value is not None:
            writer.add_uint32(key, value)
    return writer


def test_the_packaged_model(smollm2_gguf):
    """Golden: the config of HuggingFaceTB/SmolLM2-135M-Instruct on the Hub."""
    checkpoint = open_checkpoint(smollm2_gguf)
    expected = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert {key: checkpoint.config[key] for key in expected} == expected
    assert sum(np.prod(info.shape) for info in checkpoint.tensors.values()) == 134_515_008


def test_the_packaged_model_against_the_gguf_package(smollm2_gguf):
    reader = gguf.GGUFReader(smollm2_gguf)
    metadata, stored = read_header(smollm2_gguf)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):  # counts, not metadata
            assert metadata.get(key, type(field.contents())) == field.contents()
    assert len(stored) == len(reader.tensors)
    for tensor in reader.tensors:
        entry = stored[tensor.name]
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))
        assert (entry.type, entry.offset) == (tensor.tensor_type, tensor.data_offset)
        assert entry.nbytes == tensor.n_bytes
    by_name = {
        tensor.name: dequantize(tensor.data, tensor.tensor_type)
        for tensor in reader.tensors
        if tensor.name.startswith("blk.29.")
    }
    checkpoint, layer = open_checkpoint(smollm2_gguf), "model.layers.29"
    down = checkpoint.read(f"{layer}.mlp.down_proj.weight")
    np.testing.assert_array_equal(down, by_name["blk.29.ffn_down.weight"])
    k = checkpoint.read(f"{layer}.self_attn.k_proj.weight")
    np.testing.assert_array_equal(permute(k, 3), by_name["blk.29.attn_k.weight"])


def test_a_bert(tmp_path):
    """Names and config: transformers' own bare model, by the gguf package's table of names."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
        type_vocab_size=2,
        layer_norm_eps=1e-9,
    )
    model = BertModel(config, add_pooling_layer=False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, 2)
    writer = gguf.GGUFWriter(tmp_path / "bert.gguf", "bert")
    writer.add_block_count(2)
    writer.add_context_length(20)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-9)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    for name, weight in weights.items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), weight)
    finish_gguf(writer)

    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == set(weights)
    for name, weight in weights.items():
        np.testing.assert_array_equal(checkpoint.read(name), weight)
    rebuilt = BertConfig.from_dict(checkpoint.config).to_dict()
    said = {key: value for key, value in config.to_dict().items() if key in checkpoint.config}
    said["architectures"] = ["BertModel"]
    assert {key: rebuilt[key] for key in said} == said
    assert len(said) >= 10
    assert checkpoint.pooling == {"mode": "cls", "normalize": True, "max_length": 20}


def test_scaled_positions_and_an_own_head_are_kept(tmp_path):
    def add(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_freq_base(500000.0)
        writer.add_tensor("output.weight", np.zeros((40, 64), np.float32))

    write_gguf(tmp_path, add=add)
    config = open_checkpoint(tmp_path).config
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert config["rope_theta"] == 500000.0
    assert config["tie_word_embeddings"] is False


def embedding(writer, data=None, name="token_embd.weight"):
    writer.add_tensor(name, np.zeros((40, 64), np.float32) if data is None else data)


BROKEN_METADATA = {
    "of the architecture 'gptneox'": {"architecture": "gptneox"},
    "lacks the key llama.block_count": {"llama.block_count": None},
    "llama.attention.head_count is 0": {"llama.attention.head_count": 0},
    "8 of a head's 16 dimensions are rotated": {
        "llama.rope.dimension_count": 8,
        "llama.attention.key_length": 16,
    },
    "is one of 3 parts": {"split.count": 3},
    "alignment is 0": {"general.alignment": 0},
}


@pytest.mark.parametrize("message", BROKEN_METADATA)
def test_metadata_that_makes_no_model(message, tmp_path):
    writer = tiny_writer(tmp_path / "model.gguf", **BROKEN_METADATA[message])
    embedding(writer)
    finish_gguf(writer)
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        open_checkpoint(tmp_path)


def test_tensors_that_make_no_model(tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.embed_tokens"):
        write_tensor(path, "output_norm.weight")
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight has no place in a plain llama"):
        write_tensor(path, "rope_freqs.weight")
    with pytest.raises(CheckpointError, match="has tensors of the type I32"):
        write_tensor(path, data=np.zeros((40, 64), np.int32)).read("model.embed_tokens.weight")


def write_tensor(path, name="token_embd.weight", data=None):
    writer = tiny_writer(path)
    embedding(writer, data, name)
    finish_gguf(writer)
    return open_checkpoint(path)


def test_heads_that_do_not_divide_the_rows(tmp_path):
    writer = tiny_writer(tmp_path / "model.gguf")
    embedding(writer)
    embedding(writer, np.zeros((42, 64), np.float32), "blk.0.attn_q.weight")
    finish_gguf(writer)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="4 heads of 42 rows"):
        checkpoint.read("model.layers.0.self_attn.q_proj.weight")


def counts(tensors, keys):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def key(name, kind):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind)


HOSTILE = {
    "no magic": b"GGML" + bytes(100),
    "empty": b"",
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "2^60 keys": counts(0, 2**60),
    "2^60 tensors": counts(2**60, 0),
    "a name of 2^60 bytes": counts(0, 1) + struct.pack("<Q", 2**60),
    "2^60 tokens": counts(0, 1) + key(b"t", 9) + struct.pack("<IQ", 8, 2**60) + bytes(64),
    "2^60 numbers": counts(0, 1) + key(b"t", 9) + struct.pack("<IQ", 4, 2**60) + bytes(64),
    "arrays in arrays": counts(0, 1) + key(b"t", 9) + struct.pack("<IQ", 9, 2**60) + bytes(64),
    "a type that is none": counts(0, 1) + key(b"t", 77) + bytes(64),
    "the same key twice": counts(0, 2) + 2 * (key(b"t", 0) + b"1"),
    "a tensor beyond the end": counts(1, 0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 4, 0, 2**63),
    "a tensor of 2^120 elements": counts(1, 0)
    + struct.pack("<Q1sI2QIQ", 1, b"t", 2, 2**60, 2**60, 0, 0),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_at_once(case, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(
        CheckpointError, match=rf"model\.gguf \({len(HOSTILE[case]):,} bytes\) is no"
    ):
        open_checkpoint(path)


def add_tokenizer(writer):
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "ab", "▁a"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types([2, 3, 3, 6, 1, 1, 1, 1, 1])
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_end_in_an_error_of_ours(tmp_path, data):
    """Bytes changed or cut off: an error of ours, or a checkpoint and a tokenizer that read."""
    write_gguf(tmp_path, Kind.Q8_0, add_tokenizer)
    path = tmp_path / "model.gguf"
    content = bytearray(path.read_bytes())
    header = 2500  # where damage does most
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(header, len(content)))])
    try:
        checkpoint = open_checkpoint(path)
        for name in checkpoint.tensors:
            checkpoint.read(name)
        checkpoint.sidecars()
    except CheckpointError:
        pass
