"""Every form of checkpoint reads alike, and hostile files end in a clear error."""

import json
import shutil

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from gguf.quants import dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llmkg_lab.checkpoint import CheckpointError, open_checkpoint

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
SHAPES = {
    "model.embed_tokens.weight": (40, 64),
    "model.norm.weight": (64,),
    "model.layers.0.input_layernorm.weight": (64,),
    "model.layers.0.post_attention_layernorm.weight": (64,),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.self_attn.k_proj.weight": (32, 64),
    "model.layers.0.self_attn.v_proj.weight": (32, 64),
    "model.layers.0.self_attn.o_proj.weight": (64, 64),
    "model.layers.0.mlp.gate_proj.weight": (96, 64),
    "model.layers.0.mlp.up_proj.weight": (96, 64),
    "model.layers.0.mlp.down_proj.weight": (64, 96),
}
NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)


def random_tensors():
    """Values that float16 and bfloat16 hold exactly, so that all forms can be compared."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(-128, 128, shape).astype(np.float32) / 64
        for name, shape in SHAPES.items()
    }


TENSORS = random_tensors()


def halves():
    names = list(TENSORS)
    shards = {"one": names[:5], "two": names[5:]}
    return {shard: {name: TENSORS[name] for name in part} for shard, part in shards.items()}


def write_index(folder, file, suffix):
    shards = halves()
    weight_map = {name: f"{shard}.{suffix}" for shard in shards for name in shards[shard]}
    (folder / file).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_safetensors(folder):
    save_file(TENSORS, folder / "model.safetensors")


def write_float16(folder):
    save_file({k: v.astype(np.float16) for k, v in TENSORS.items()}, folder / "model.safetensors")


def write_bfloat16(folder):
    from safetensors.torch import save_file as save_torch

    tensors = {name: torch.tensor(v).to(torch.bfloat16) for name, v in TENSORS.items()}
    save_torch(tensors, folder / "model.safetensors")


def write_sharded(folder):
    for shard, part in halves().items():
        save_file(part, folder / f"{shard}.safetensors")
    write_index(folder, "model.safetensors.index.json", "safetensors")


def write_pickle(folder):
    torch.save({k: torch.tensor(v) for k, v in TENSORS.items()}, folder / "pytorch_model.bin")


def write_old_pickle(folder):
    state = {k: torch.tensor(v) for k, v in TENSORS.items()}
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_sharded_pickle(folder):
    for shard, part in halves().items():
        torch.save({k: torch.tensor(v) for k, v in part.items()}, folder / f"{shard}.bin")
    write_index(folder, "pytorch_model.bin.index.json", "bin")


def permute(weight, heads):
    """As llama.cpp's converter does: each head's two halves interleaved, row by row."""
    half = weight.shape[0] // heads // 2
    rows = [
        head * 2 * half + part * half + i
        for head in range(heads)
        for i in range(half)
        for part in (0, 1)
    ]
    return weight[rows]


def write_gguf(folder, quantize=gguf.GGMLQuantizationType.F32):
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    for name, weight in TENSORS.items():
        if "q_proj" in name or "k_proj" in name:
            weight = permute(weight, 4 if "q_proj" in name else 2)
        stored = NAMES.get_name(name, try_suffixes=(".weight",))
        kind = gguf.GGMLQuantizationType.F32 if weight.ndim == 1 else quantize
        data = gguf.quants.quantize(weight, kind)
        writer.add_tensor(stored, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


FORMS = [
    write_safetensors,
    write_float16,
    write_bfloat16,
    write_sharded,
    write_pickle,
    write_old_pickle,
    write_sharded_pickle,
    write_gguf,
]


@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__name__)
def test_every_form_reads_alike(write, tmp_path):
    write(tmp_path)
    if write is not write_gguf:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    checkpoint = open_checkpoint(tmp_path)
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == SHAPES
    assert {key: checkpoint.config[key] for key in CONFIG} == CONFIG
    for name, expected in TENSORS.items():
        read = checkpoint.read(name)
        assert read.dtype == np.float32
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, expected)
        np.testing.assert_array_equal(checkpoint.read(name, slice(5, 29)), expected[5:29])


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_gguf_types_dequantize_as_the_gguf_package_does(kind, tmp_path):
    write_gguf(tmp_path, gguf.GGMLQuantizationType[kind])
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    up = stored["blk.0.ffn_up.weight"]
    np.testing.assert_array_equal(
        checkpoint.read("model.layers.0.mlp.up_proj.weight"), dequantize(up.data, up.tensor_type)
    )
    q = checkpoint.read("model.layers.0.self_attn.q_proj.weight")
    stored_q = stored["blk.0.attn_q.weight"]
    np.testing.assert_array_equal(permute(q, 4), dequantize(stored_q.data, stored_q.tensor_type))


def test_the_packaged_gguf(smollm2_gguf):
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


def test_the_rebuilt_tokenizer(smollm2_gguf, tmp_path):
    """Golden ids: transformers' own reading of the same file, whose special tokens differ not."""
    for name, content in open_checkpoint(smollm2_gguf).sidecars().items():
        (tmp_path / name).write_bytes(content)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("Hello 1234 world").ids == [19556, 216, 33, 34, 35, 36, 905]
    assert tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n").ids == [1, 4093, 198, 6004, 2, 198]
    text = "naïve café — 日本語\n\n\tx = 10"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>"
    assert "<|im_start|>" in config["chat_template"]

    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert auto(text)["input_ids"] == tokenizer.encode(text).ids
    rendered = auto.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert rendered.endswith("<|im_start|>user\nhi<|im_end|>\n")


def test_the_packaged_embedder(minilm_folder):
    checkpoint = open_checkpoint(minilm_folder)
    assert checkpoint.pooling == {"mode": "mean", "normalize": True, "max_length": 256}
    # as the Hub shows it for model.safetensors of sentence-transformers/all-MiniLM-L6-v2
    assert checkpoint.fingerprint().startswith("53aa51172d142c89")
    files = checkpoint.sidecars()
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(files)


class Payload:
    def __reduce__(self):
        return (shutil.rmtree, ("/nowhere",))


def broken(folder, case):
    """Make a folder that is broken in one way; returns what its error must say."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder)
    weights = folder / "model.safetensors"
    if case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
        return "no whole safetensors file"
    if case == "no config":
        (folder / "config.json").unlink()
        return "lacks config.json"
    if case == "config is no JSON":
        (folder / "config.json").write_text("{")
        return "is not JSON"
    if case == "unknown type":
        save_file({"a": np.zeros((2, 2))}, weights)
        return "is of type F64"
    weights.unlink()
    if case == "nothing":
        return "holds no weights: found config.json"
    if case == "missing shard":
        write_sharded(folder)
        (folder / "two.safetensors").unlink()
        return "lacks the shard two.safetensors"
    if case == "shard elsewhere":
        index = {"weight_map": {"a": "../secret.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return "no file beside it"
    if case == "code in a pickle":
        torch.save({"a": Payload()}, folder / "pytorch_model.bin")
        return "refused: it asks for shutil.rmtree"
    assert case == "half a pickle"
    write_pickle(folder)
    pickled = folder / "pytorch_model.bin"
    pickled.write_bytes(pickled.read_bytes()[:2000])
    return "pytorch_model.bin cannot be read"


@pytest.mark.parametrize(
    "case",
    [
        "truncated",
        "no config",
        "config is no JSON",
        "unknown type",
        "nothing",
        "missing shard",
        "shard elsewhere",
        "code in a pickle",
        "half a pickle",
    ],
)
def test_broken_checkpoints_say_what_is_wrong(case, tmp_path):
    message = broken(tmp_path, case)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path).read("a")


def test_a_wrong_name_suggests_the_right_one(tmp_path):
    write_safetensors(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(CheckpointError, match=r"it has .*mlp\.up_proj"):
        open_checkpoint(tmp_path).read("model.layers.0.mlp.up_projection.weight")


def test_a_path_that_is_not_there():
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint("/nowhere/at/all")


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("write", [write_safetensors, write_gguf])
def test_damaged_files_never_crash(write, tmp_path, data):
    """Any byte changed or the end cut off: an error of ours, or a checkpoint that reads."""
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / ("model.gguf" if write is write_gguf else "model.safetensors")
    content = bytearray(path.read_bytes())
    header = 1600  # where damage does most
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        checkpoint = open_checkpoint(tmp_path)
        for name in checkpoint.tensors:
            checkpoint.read(name)
    except CheckpointError:
        pass
