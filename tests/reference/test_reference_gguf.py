"""GGUF: transformers' own reader is the judge, and where it cannot be, the report says so."""

import json

import numpy as np
import pytest
import tokenizers
import torch
from support import tiny_checkpoints as tiny
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.checkpoint.gguf import GGUFCheckpoint
from llmkg_lab.conversion import to_gguf
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.measure.quality import score_windows
from llmkg_lab.reference import load
from llmkg_lab.reference.filled import load_model
from llmkg_lab.reference.outputs import decoder_reference, embedder_reference
from llmkg_lab.reference.tokens import OriginalTokenizer
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.scheme import Scheme

WINDOWS = np.random.default_rng(0).integers(0, 40, (2, 24))
TEXTS = ["the state said that", "  Two men, 1234\n\tthere", "naïve café 日本 🙂"]


def write(folder, kind=tiny.F32, add=lambda writer: None):
    def add_all(writer):
        writer.add_vocab_size(40)
        writer.add_tokenizer_model("no_vocab")
        add(writer)

    tiny.write_gguf(folder, kind, add_all)
    return open_checkpoint(folder / "model.gguf")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", [tiny.F32, tiny.gguf.GGMLQuantizationType.Q8_0])
def test_the_judge_is_what_transformers_reads(kind, tmp_path):
    checkpoint = write(tmp_path, kind)
    reference = decoder_reference(checkpoint, WINDOWS, [[1, 2]], 6)
    assert reference.judge.startswith("LlamaForCausalLM of transformers")
    with torch.inference_mode():
        expected = load_model(checkpoint)(torch.from_numpy(WINDOWS)).logits.numpy()
    for i in range(len(WINDOWS)):
        np.testing.assert_allclose(reference.logits(i), expected[i], rtol=0, atol=1e-4)


def test_rows_that_are_left_interleaved_are_found(tmp_path, monkeypatch):
    """The fault that GGUF invites: llama.cpp orders the rows of queries and keys otherwise."""
    checkpoint = write(tmp_path)

    def divergence(name):
        artifact = convert(checkpoint, Scheme.parse("fp32"), tmp_path / name)
        reference = decoder_reference(checkpoint, WINDOWS, [], 0)
        return score_windows(Decoder(artifact), reference)["kl"].mean()

    assert divergence("whole") < 1e-6
    monkeypatch.setattr(GGUFCheckpoint, "_permuted_heads", lambda self, name: 0)
    assert divergence("faulty") > 0.01
    monkeypatch.setattr(load, "unread", lambda checkpoint: "this test asks so")
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "another"))
    assert divergence("judged by its own reader") < 1e-6


def test_keys_that_transformers_ignores_are_named(tmp_path):
    def scale(writer):
        writer.add_rope_scaling_type(tiny.gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    checkpoint = write(tmp_path, add=scale)
    reference = decoder_reference(checkpoint, WINDOWS, [], 0)
    ignored = "transformers ignores llama.rope.scaling.type, llama.rope.scaling.factor"
    assert reference.judge.endswith(f"by this project's own reader, for {ignored}")


def test_a_bert_is_judged_by_our_own_reader(tmp_path):
    """And comes to what sentence-transformers made of the folder that it was exported from."""
    torch.manual_seed(0)
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"vocab_size": 40, "intermediate_size": 64, "max_position_embeddings": 64}
    folder = tmp_path / "bert"
    BertModel(BertConfig(**config)).save_pretrained(folder)
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    words = {word: i for i, word in enumerate((*special, "the", "state", "said", "##s"))}
    core = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    core.normalizer = tokenizers.normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    core.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    said |= {f"{token[1:-1].lower()}_token": token for token in special}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    texts = ["The state said", "states", "men"]
    expected = embedder_reference(open_checkpoint(folder), texts)
    artifact = to_gguf.export(open_checkpoint(folder), "F32", tmp_path / "gguf")
    exported = embedder_reference(open_checkpoint(artifact.model_path), texts)
    assert "does not read GGUF of the architecture bert" in exported.judge
    assert exported.tokens == expected.tokens
    np.testing.assert_allclose(exported.embeddings, expected.embeddings, rtol=0, atol=1e-6)


def test_the_tokenizer_of_a_file_that_transformers_reads(tmp_path):
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 300, "special_tokens": ["<|endoftext|>"], "show_progress": False}
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    core.train_from_iterator([" ".join(TEXTS * 3)], trainer)
    folder = tmp_path / "llama"
    config = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 300}
    LlamaForCausalLM(LlamaConfig(**config, max_position_embeddings=64)).save_pretrained(folder)
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    artifact = to_gguf.export(open_checkpoint(folder), "F32", tmp_path / "gguf")
    original = OriginalTokenizer(open_checkpoint(artifact.model_path))
    for text in TEXTS:
        assert original.encode(text) == core.encode(text).ids
    assert original.judge.startswith("AutoTokenizer of transformers")


def test_the_packaged_models_split_is_ours(smollm2_gguf):
    """transformers reads the file, but not how digits are split before the merges."""
    original = OriginalTokenizer(open_checkpoint(smollm2_gguf))
    assert original.encode("in 1984", special=False)
    assert original.judge == (
        "this project's own tokenizer, for transformers ignores tokenizer.ggml.pre smollm"
    )
