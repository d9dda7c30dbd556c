"""GGUF, the file format of llama.cpp (ggml-org/ggml, docs/gguf.md), under Hugging Face names.

A quantized tensor is dequantized when it is read: its values on the grid are the weights.
"""

import json
import os
import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader
from gguf.quants import dequantize

from llmkg_lab.checkpoint import gguf_tokenizer
from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo

POOLING = {1: "mean", 2: "cls"}  # llama.cpp's pooling types
LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BERT_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
NAMES = {"llama": ("model.layers", LLAMA_NAMES), "bert": ("encoder.layer", BERT_NAMES)}


class GGUFCheckpoint(Checkpoint):
    """One .gguf file: config and tokenizer are rebuilt from its metadata."""

    format = "gguf"

    def __init__(self, path: Path) -> None:
        reader = _open(path)
        self._metadata = dict(reader.fields)
        self._architecture = str(self._field("general.architecture"))
        if self._architecture not in NAMES:
            raise CheckpointError(
                f"{path}: GGUF of the architecture {self._architecture!r}",
                f"supported are {', '.join(NAMES)}",
            )
        self._stored = {self._hugging_face_name(path, t.name): t for t in reader.tensors}
        tensors = {name: _info(path, name, tensor) for name, tensor in self._stored.items()}
        super().__init__(path, {}, tensors, [path])
        self.config = self._llama_config() if self._architecture == "llama" else self._bert_config()

    def _read(self, info: TensorInfo, rows: slice | None) -> np.ndarray:
        start, stop, _ = (rows or slice(None)).indices(info.shape[0])
        heads = self._permuted_heads(info.name)
        if not heads:
            return self._rows(info, start, stop)
        # Rows change places inside a head only: read whole heads, then cut.
        size = info.shape[0] // heads
        first, last = start // size, -(-stop // size)
        block = self._rows(info, first * size, last * size)
        # llama.cpp interleaves the two halves that rotary embedding pairs; put them apart again
        block = block.reshape(last - first, size // 2, 2, *info.shape[1:]).swapaxes(1, 2)
        block = block.reshape(-1, *info.shape[1:])
        return np.ascontiguousarray(block[start - first * size : stop - first * size])

    def _rows(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        """Rows as they are stored, dequantized."""
        tensor = self._stored[info.name]
        row = info.nbytes // info.shape[0]  # bytes
        with self.path.open("rb") as file:
            file.seek(int(tensor.data_offset) + start * row)
            data = np.fromfile(file, np.uint8, (stop - start) * row)
        if data.size != (stop - start) * row:
            raise CheckpointError(f"{self.path} ends inside {info.name}", "fetch it again")
        if len(info.shape) == 1:
            return dequantize(data, tensor.tensor_type).reshape(-1)
        return dequantize(data.reshape(stop - start, row), tensor.tensor_type)

    def sidecars(self) -> dict[str, bytes]:
        config = {"bos_token_id": self.config.get("bos_token_id")}
        config["eos_token_id"] = self.config.get("eos_token_id")
        generation = {key: value for key, value in config.items() if value is not None}
        files = gguf_tokenizer.build(self.path, self._values("tokenizer."))
        if self._architecture == "llama":
            files["generation_config.json"] = json.dumps(generation, indent=2).encode()
        return files

    @property
    def pooling(self) -> dict | None:
        kind = self._field("bert.pooling_type", 0)
        if kind not in POOLING:
            return None
        length = self.config.get("max_position_embeddings")
        return {"mode": POOLING[kind], "normalize": True, "max_length": length}

    def _llama_config(self) -> dict:
        if "rope_freqs.weight" in self._stored or "llama.expert_count" in self._metadata:
            raise CheckpointError(f"{self.path}: rope factors and experts are not supported")
        heads = self._need("attention.head_count")
        head_dim = self._of("rope.dimension_count", self._need("embedding_length") // heads)
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": self.tensors["model.embed_tokens.weight"].shape[0],
            "hidden_size": self._need("embedding_length"),
            "intermediate_size": self._need("feed_forward_length"),
            "num_hidden_layers": self._need("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._of("attention.head_count_kv", heads),
            "head_dim": self._of("attention.key_length", head_dim),
            "max_position_embeddings": self._need("context_length"),
            "rms_norm_eps": _shortest(self._need("attention.layer_norm_rms_epsilon")),
            "rope_theta": self._of("rope.freq_base", 10000.0),
            "tie_word_embeddings": "lm_head.weight" not in self.tensors,
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in self.tensors,
            "mlp_bias": "model.layers.0.mlp.up_proj.bias" in self.tensors,
        }
        scaling = self._of("rope.scaling.type", "none")
        if scaling != "none":
            factor = self._need("rope.scaling.factor")
            config["rope_scaling"] = {"rope_type": scaling, "factor": factor}
        return config | self._special_ids()

    def _bert_config(self) -> dict:
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "vocab_size": self.tensors["embeddings.word_embeddings.weight"].shape[0],
            "type_vocab_size": self.tensors["embeddings.token_type_embeddings.weight"].shape[0],
            "hidden_size": self._need("embedding_length"),
            "intermediate_size": self._need("feed_forward_length"),
            "num_hidden_layers": self._need("block_count"),
            "num_attention_heads": self._need("attention.head_count"),
            "max_position_embeddings": self._need("context_length"),
            "layer_norm_eps": _shortest(self._need("attention.layer_norm_epsilon")),
        } | self._special_ids()

    def _special_ids(self) -> dict:
        keys = {"bos": "bos", "eos": "eos", "padding": "pad"}
        found = {k: self._field(f"tokenizer.ggml.{k}_token_id") for k in keys}
        return {f"{keys[k]}_token_id": int(v) for k, v in found.items() if v is not None}

    def _permuted_heads(self, name: str) -> int:
        """Heads of a tensor whose rows llama.cpp's converter permutes, else 0."""
        if self._architecture != "llama":
            return 0
        if ".self_attn.q_proj." in name:
            return self.config["num_attention_heads"]
        return self.config["num_key_value_heads"] if ".self_attn.k_proj." in name else 0

    def _hugging_face_name(self, path: Path, name: str) -> str:
        layers, names = NAMES[self._architecture]
        stem, _, kind = name.rpartition(".")
        prefix = ""
        if stem.startswith("blk."):
            _, number, stem = stem.split(".", 2)
            prefix = f"{layers}.{number}."
        if stem not in names:
            raise CheckpointError(f"{path}: the tensor {name} has no place in a plain model")
        return f"{prefix}{names[stem]}.{kind}"

    def _need(self, key: str) -> int | float | str:
        value = self._of(key)
        if value is None:
            raise CheckpointError(f"{self.path} lacks the key {self._architecture}.{key}")
        return value

    def _of(self, key: str, default: object = None) -> int | float | str | None:
        return self._field(f"{self._architecture}.{key}", default)

    def _field(self, key: str, default: object = None) -> object:
        return self._metadata[key].contents() if key in self._metadata else default

    def _values(self, prefix: str) -> dict:
        keys = [key for key in self._metadata if key.startswith(prefix)]
        return {key: self._metadata[key].contents() for key in keys}


def _open(path: Path) -> GGUFReader:
    try:
        reader = GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError, struct.error, OSError) as error:
        raise CheckpointError(
            f"{path} ({os.path.getsize(path):,} bytes) is no whole GGUF file: {error}",
            "the download may be cut off: fetch it again",
        ) from None
    return reader


def _info(path: Path, name: str, tensor: object) -> TensorInfo:
    shape = tuple(int(n) for n in reversed(tensor.shape))  # ggml counts the fastest axis first
    block, size = GGML_QUANT_SIZES[tensor.tensor_type]
    if shape[-1] % block or tensor.n_bytes != int(np.prod(shape)) // block * size:
        raise CheckpointError(f"{path}: {name} has the wrong number of bytes for {shape}")
    return TensorInfo(name, shape, tensor.tensor_type.name, int(tensor.n_bytes))


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05 rather than 9.99999974e-06."""
    return float(str(np.float32(value)))
