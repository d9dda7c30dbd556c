"""GGUF export: what is written is read back, by our own reader and by the gguf package."""

import json

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
from fuzz import formats
from gguf.quants import dequantize, quantize
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file
from support.tiny_checkpoints import CONFIG, TENSORS, permute, write_safetensors

from llmkg_lab.artifact import verify
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion import to_gguf as exporter
from llmkg_lab.models.base import UnsupportedError

Kind = gguf.GGMLQuantizationType
TRICKY = [
    "Hello  world 123\n\n\tx",
    "naïve café 日本語 🙂 <|im_start|>user\nhi<|im_end|>",
    "don't 3.14159 ÀÉ [MASK] ##ing",
    "",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_safetensors(folder)
    return open_checkpoint(folder)


@pytest.mark.parametrize("kind", exporter.TYPES)
def test_tensors_are_what_the_gguf_package_makes_of_them(kind, tiny, tmp_path):
    artifact = exporter.export(tiny, kind, tmp_path / "out")
    read = open_checkpoint(artifact.model_path)
    assert verify(artifact.folder) == []
    assert set(read.tensors) == set(TENSORS)
    for name, weight in TENSORS.items():
        stored = Kind.F32 if weight.ndim == 1 else Kind[kind]
        expected = dequantize(quantize(weight, stored).view(np.uint8), stored)
        np.testing.assert_array_equal(read.read(name), expected.reshape(weight.shape), name)


def test_rows_of_queries_and_keys_are_interleaved(tiny, tmp_path):
    """llama.cpp rotates neighbours; the expected order is built row by row."""
    artifact = exporter.export(tiny, "F32", tmp_path / "out")
    stored = {t.name: t.data for t in gguf.GGUFReader(artifact.model_path).tensors}
    for name, heads in (("q", 4), ("k", 2)):
        weight = TENSORS[f"model.layers.0.self_attn.{name}_proj.weight"]
        np.testing.assert_array_equal(stored[f"blk.0.attn_{name}.weight"], permute(weight, heads))


def test_the_same_bytes_again(tiny, tmp_path):
    first = exporter.export(tiny, "Q4_1", tmp_path / "one")
    second = exporter.export(tiny, "Q4_1", tmp_path / "two")
    assert first.manifest == second.manifest  # with every file's SHA-256
    # as the checkpoint has no tokenizer
    assert "tokenizer.json" not in open_checkpoint(first.model_path).sidecars()


values = st.floats(-1e4, 1e4, width=32)


TINY = np.zeros((96, 64), np.float32)
TINY[0, 0] = 1e-5  # the scale of its block is a subnormal float16


@settings(deadline=None, max_examples=25)
@example(up=TINY, kind="Q8_0", chunk=1)
@given(
    up=arrays(np.float32, (96, 64), elements=values, fill=values),
    kind=st.sampled_from(["F32", "F16", "Q8_0", "Q4_0", "Q5_1"]),
    chunk=st.integers(1, 2048),
)
def test_any_weights_survive_in_chunks_of_any_size(up, kind, chunk, tmp_path_factory):
    """The error of a stored weight is at most half a step of its block's grid."""
    folder = tmp_path_factory.mktemp("any")
    write_safetensors(folder, TENSORS | {"model.layers.0.mlp.up_proj.weight": up})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "CHUNK", chunk)
        artifact = exporter.export(open_checkpoint(folder), kind, folder / "out")
    read = open_checkpoint(artifact.model_path).read("model.layers.0.mlp.up_proj.weight")
    blocks = up.reshape(-1, 32)
    peak, span = np.abs(blocks).max(1), np.ptp(blocks, 1)
    # half steps; a scale is float16, so 2^-11 of the range are lost besides; or it is subnormal,
    # and up to 128 steps of it lose 2^-25 each
    step = {
        "F32": 0 * peak,
        "F16": peak / 2**11,
        "Q8_0": peak / 254,
        "Q4_0": peak / 8,
        "Q5_1": span / 62,
    }
    bound = step[kind] + (peak * 2**-10 + 128 * 2**-25 if kind != "F32" else 0)
    assert (np.abs(read.reshape(-1, 32) - blocks).max(1) <= bound).all()


def test_rows_that_no_block_divides_stay_float16_and_the_manifest_says_so(tmp_path):
    tensors = dict(TENSORS)
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] = np.ones((80, 64), np.float32)
    tensors["model.layers.0.mlp.down_proj.weight"] = np.ones((64, 80), np.float32)
    write_safetensors(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"intermediate_size": 80}))
    artifact = exporter.export(open_checkpoint(tmp_path), "Q4_0", tmp_path / "out")
    tensors = {group.name: group.tensors for group in artifact.manifest.groups}
    assert tensors == {"Q4_0": 7, "F32": 3, "F16": 1}


def test_biases_and_an_untied_head(tmp_path):
    attention = {"q": 64, "k": 32, "v": 32, "o": 64}
    rng = np.random.default_rng(1)
    biases = {
        f"model.layers.0.self_attn.{name}_proj.bias": rng.normal(size=size).astype(np.float32)
        for name, size in attention.items()
    }
    head = {"lm_head.weight": rng.normal(size=(40, 64)).astype(np.float32)}
    save_file(TENSORS | biases | head, tmp_path / "model.safetensors")
    config = CONFIG | {"attention_bias": True, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    artifact = exporter.export(open_checkpoint(tmp_path), "F32", tmp_path / "out")
    read = open_checkpoint(artifact.model_path)
    assert read.config["attention_bias"]
    assert not read.config["tie_word_embeddings"]
    for name, expected in (biases | head).items():
        np.testing.assert_array_equal(read.read(name), expected, name)


def test_minilm(minilm_folder, tmp_path):
    """An encoder: weights, tokens, pooling and sizes come back."""
    original = open_checkpoint(minilm_folder)
    read = open_checkpoint(exporter.export(original, "F32", tmp_path / "out").model_path)
    assert read.pooling["mode"] == "mean"
    for key in ("hidden_size", "num_hidden_layers", "vocab_size", "layer_norm_eps", "hidden_act"):
        assert read.config[key] == original.config[key]
    for name in read.tensors:
        np.testing.assert_array_equal(read.read(name), original.read(name), name)
    assert_same_tokens(original.sidecars(), read.sidecars())


def test_smollm2(smollm2_gguf, tmp_path):
    """A GGUF file exported again in its own type: metadata, tokenizer and template are kept."""
    original = open_checkpoint(smollm2_gguf)
    artifact = exporter.export(original, "F16", tmp_path / "out")
    read = open_checkpoint(artifact.model_path)
    assert read.config == original.config
    assert read.sidecars() == original.sidecars()
    name = "model.layers.7.self_attn.k_proj.weight"
    np.testing.assert_allclose(read.read(name), original.read(name), rtol=2**-11)


def test_sentencepiece_gets_its_scores_back(sentencepiece_model, tmp_path):
    """Golden: the scores of tokenizer.model, which a tokenizer.json no longer has."""
    golden = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    size = golden.vocab_size()
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model.read_bytes())
    table = {"model.embed_tokens.weight": np.zeros((size + 8, 64), np.float32)}  # 8 rows too many
    write_safetensors(tmp_path, TENSORS | table)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": size + 8}))
    original = open_checkpoint(tmp_path)
    artifact = exporter.export(original, "F16", tmp_path / "out")
    fields = gguf.GGUFReader(artifact.model_path).fields
    scores = fields["tokenizer.ggml.scores"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert scores[:size] == [golden.GetScore(i) for i in range(size)]
    assert kinds[:4] == [2, 3, 3, 6]  # unknown, two control tokens, the first byte
    assert kinds[size:] == [5] * 8  # unused
    assert_same_tokens(original.sidecars(), open_checkpoint(artifact.model_path).sidecars())


def test_a_weight_beyond_float16_is_refused(tmp_path):
    up = np.full((96, 64), 1e6, np.float32)
    write_safetensors(tmp_path, TENSORS | {"model.layers.0.mlp.up_proj.weight": up})
    with pytest.raises(UnsupportedError, match="up_proj"):
        exporter.export(open_checkpoint(tmp_path), "F16", tmp_path / "out")


def test_what_llama_cpp_would_tokenize_wrongly_is_refused(tmp_path):
    write_safetensors(tmp_path)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedError, match="splits texts in its own way"):
        exporter.export(open_checkpoint(tmp_path), "F16", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnsupportedError, match="Q4_K"):
        exporter.export(open_checkpoint(tmp_path), "Q4_K", tmp_path / "out")


def assert_same_tokens(sidecars, others):
    first, second = (
        tokenizers.Tokenizer.from_buffer(files["tokenizer.json"]) for files in (sidecars, others)
    )
    for tokenizer in (first, second):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    for text in TRICKY:
        assert first.encode(text).ids == second.encode(text).ids


def test_special_tokens_named_in_a_file_of_their_own_are_exported(tmp_path):
    """In special_tokens_map.json alone; without its end, a text of llama.cpp's never ends."""
    formats.FORMATS["gguf-export"].make(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "generation_config.json").unlink()
    exported = exporter.export(open_checkpoint(tmp_path), "Q8_0", tmp_path / "out")
    fields = gguf.GGUFReader(exported.model_path).fields
    ids = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("bos", "eos")]
    assert ids == [1, 2]
