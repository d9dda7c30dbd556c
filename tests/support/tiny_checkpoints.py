"""One tiny random Llama, written in every form that a checkpoint comes in."""

import json

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

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
F32 = gguf.GGMLQuantizationType.F32


def random_tensors():
    """Values that float16 and bfloat16 hold exactly, so that all forms can be compared."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(-128, 128, shape).astype(np.float32) / 64
        for name, shape in SHAPES.items()
    }


TENSORS = random_tensors()


def write_config(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG))


def write_safetensors(folder, tensors=TENSORS):
    write_config(folder)
    save_file(tensors, folder / "model.safetensors")


def write_float16(folder):
    write_safetensors(folder, {name: v.astype(np.float16) for name, v in TENSORS.items()})


def write_bfloat16(folder):
    write_config(folder)
    tensors = {name: torch.tensor(v).to(torch.bfloat16) for name, v in TENSORS.items()}
    save_torch(tensors, folder / "model.safetensors")


def write_sharded(folder):
    write_config(folder)
    for shard, part in _halves().items():
        save_file(part, folder / f"{shard}.safetensors")
    _write_index(folder, "safetensors", "model.safetensors")


def write_as_in_the_hubs_cache(folder):
    """Shards are links out of the folder, to files that are named by their hash."""
    snapshot = folder / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    write_sharded(snapshot)
    (folder / "blobs").mkdir()
    for number, shard in enumerate(snapshot.glob("*.safetensors")):
        blob = folder / "blobs" / f"{number:064x}"
        shard.rename(blob)
        shard.symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def write_pickle(folder, state=None):
    write_config(folder)
    state = state or {name: torch.tensor(v) for name, v in TENSORS.items()}
    torch.save(state, folder / "pytorch_model.bin")


def write_old_pickle(folder):
    """As PyTorch wrote them before 1.6: no zip file, so it cannot be mapped."""
    write_config(folder)
    state = {name: torch.tensor(v) for name, v in TENSORS.items()}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def write_sharded_pickle(folder):
    write_config(folder)
    for shard, part in _halves().items():
        torch.save({name: torch.tensor(v) for name, v in part.items()}, folder / f"{shard}.bin")
    _write_index(folder, "bin", "pytorch_model.bin")


def write_gguf(folder, kind=F32, add=lambda writer: None):
    """add: puts more into the file before it is written."""
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
        stored_kind = F32 if weight.ndim == 1 else kind
        writer.add_tensor(stored, gguf.quants.quantize(weight, stored_kind), raw_dtype=stored_kind)
    add(writer)
    finish_gguf(writer)


def finish_gguf(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


def _halves():
    names = list(TENSORS)
    shards = {"one": names[:5], "two": names[5:]}
    return {shard: {name: TENSORS[name] for name in part} for shard, part in shards.items()}


def _write_index(folder, suffix, single):
    shards = _halves()
    weight_map = {name: f"{shard}.{suffix}" for shard in shards for name in shards[shard]}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{single}.index.json").write_text(json.dumps(index))
