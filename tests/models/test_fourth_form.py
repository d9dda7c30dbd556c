"""A fourth form, described in this file alone: Qwen2, a Llama with biases on q, k and v."""

import json
import shutil
from dataclasses import dataclass, replace
from typing import ClassVar

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion import to_gguf
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data.texts import Text
from llmkg_lab.measure.protocol import Reading
from llmkg_lab.measure.quality import validate_decoder
from llmkg_lab.models.base import FORMS, UnsupportedError, register
from llmkg_lab.models.keys import harmless, refused
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.quantize.solve.equalize import random_rescaling
from llmkg_lab.reference.outputs import decoder_reference
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.scheme import Scheme

VOCAB, WINDOW = 131, 64


@dataclass(frozen=True)
class Qwen2Form(LlamaForm):
    """Qwen2 (Yang et al., 2024, arXiv:2407.10671) without a sliding window."""

    model_type: ClassVar[str] = "qwen2"
    tasks: ClassVar[dict] = {"Qwen2ForCausalLM": "text-generation"}
    gguf: ClassVar = replace(LlamaForm.gguf, architecture="qwen2", permuted={})
    keys: ClassVar = {
        **LlamaForm.keys,
        **refused("a window is not computed", "use_sliding_window", unless=(False, None)),
        **harmless("it describes the window", "sliding_window", "max_window_layers", "layer_types"),
    }

    @classmethod
    def read(cls, config, names=None):
        return replace(super().read(config, names), qkv_bias=True, o_bias=False)


@pytest.fixture(scope="module", autouse=True)
def registered():
    register(Qwen2Form)
    yield
    del FORMS["qwen2"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Qwen2 of transformers, its checkpoint and a tokenizer of one token per number."""
    folder = tmp_path_factory.mktemp("qwen2")
    config = transformers.Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
    )
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn(weight.shape))  # so that every part matters
    model.save_pretrained(folder)
    words = tokenizers.models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return model, folder


@pytest.fixture(scope="module")
def text():
    numbers = np.random.default_rng(0).integers(0, VOCAB, 24_000)
    lines = (" ".join(map(str, line)) for line in numbers.reshape(-1, 20))
    return Text("numbers", "drawn at random", "0" * 64, "\n".join(lines))


@pytest.fixture(scope="module")
def windows():
    return np.random.default_rng(1).integers(0, VOCAB, (4, WINDOW))


def expected(model, windows):
    with torch.inference_mode():
        return model(torch.from_numpy(windows)).logits.numpy()


@pytest.mark.slow
def test_it_converts_to_what_transformers_computes(model, windows, tmp_path):
    model, folder = model
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "fp32")
    logits = Decoder(artifact).logits(windows)
    np.testing.assert_allclose(logits, expected(model, windows), atol=2e-4)
    assert artifact.manifest.architecture == "qwen2"


@pytest.mark.slow
def test_it_quantizes_and_validates(model, windows, text, tmp_path):
    checkpoint = open_checkpoint(model[1])
    windows = windows % 10  # of the text, Qwen2's own tokenizer in transformers reads the digits
    reference = decoder_reference(checkpoint, windows, [[1, 2, 3]], 4)
    divergence = {}
    for name in ("int8-rtn", "int4-s16", "int4-s16-eq", "int4-s16-gptq", "budget:0.15MB"):
        scheme = Scheme.parse(name)
        artifact = convert(checkpoint, scheme, tmp_path / scheme.name, calibration=text)
        reading = Reading(text, windows, reference.prompts)
        quality = validate_decoder(Decoder(artifact), reference, reading)
        divergence[name] = quality.metrics["kl_mean"].value
    assert divergence["int8-rtn"] < 0.01
    assert divergence["int4-s16-gptq"] < divergence["int4-s16"]
    assert divergence["budget:0.15MB"] < 0.5


@pytest.mark.slow
def test_its_channels_may_be_rescaled_with_their_biases(model, windows, tmp_path):
    model, folder = model
    rescaled = random_rescaling(open_checkpoint(folder), 0.5, 0)
    name = "model.layers.0.self_attn.v_proj.bias"
    assert np.abs(rescaled.read(name) / open_checkpoint(folder).read(name) - 1).max() > 0.1
    artifact = convert(rescaled, Scheme.parse("fp32"), tmp_path / "rescaled")
    logits = Decoder(artifact).logits(windows)
    np.testing.assert_allclose(logits, expected(model, windows), atol=1e-3)


def test_it_is_exported_as_llama_cpp_names_it_and_read_back(model, windows, tmp_path):
    model = model[0]
    model.save_pretrained(tmp_path / "bare")  # GGUF has no place for a tokenizer of numbers
    exported = to_gguf.export(open_checkpoint(tmp_path / "bare"), "F32", tmp_path / "gguf")
    reader = gguf.GGUFReader(exported.model_path)
    assert reader.get_field("general.architecture").contents() == "qwen2"
    assert reader.get_field("qwen2.attention.head_count_kv").contents() == 2
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 2)
    published = dict(model.named_parameters())
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    for name, weight in published.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        np.testing.assert_array_equal(
            stored[theirs].reshape(weight.shape), weight.numpy(force=True), name
        )
    again = convert(open_checkpoint(exported.model_path), Scheme.parse("fp32"), tmp_path / "again")
    np.testing.assert_allclose(Decoder(again).logits(windows), expected(model, windows), atol=2e-4)


def test_it_says_what_becomes_of_its_own_keys(model, tmp_path):
    """The keys of config.json are declared above; one that no form knows is said, by name."""
    folder = shutil.copytree(model[1], tmp_path / "qwen2")
    (instead,) = open_checkpoint(folder).warnings
    assert "transformers' class of the model takes its own" in instead  # not that of numbers
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"dual_chunk_attention_config": {"chunk_size": 32}}))
    warning, _ = open_checkpoint(folder).warnings
    assert warning.startswith("config.json: dual_chunk_attention_config is not known here")
    path.write_text(json.dumps(config | {"use_sliding_window": True}))
    with pytest.raises(UnsupportedError, match="use_sliding_window is True"):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "windowed")
