"""Synthetic checkpoints: every variant of the roster, at reduced size, through the pipeline."""

import numpy as np
import pytest
from tokenizers import Tokenizer as Core

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.models import published as shapes
from llmkg_lab.roster import catalog
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import SourceError, fetch, tokenizers

ONE_A_FORM = [  # tied, untied with added tokens, layer-wise, encoder, classifier
    "smollm_135m",
    "tinyllama_1_1b_chat_v0_3",
    "openelm_3b",
    "all_minilm_l6_v2",
    "minilm_multilingual_l12_h384",
    "ms_marco_minilm_l6_v2",
]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMKG_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def reduced(name):
    return fetch(catalog.find_variant(name), "synthetic:reduced")


def test_every_variant_has_a_shape_of_the_size_that_its_file_expects():
    for variant in catalog.roster().values():
        shape = shapes.known()[variant.alias_of or variant.id]
        expected = variant.expect.get("parameters", shape.parameters())
        assert shape.parameters() == expected, variant.id
        assert shape.reduced().parameters() < 40e6


def test_parameters_of_the_published_minilm():
    """The figure of the model card's safetensors: 22,713,728 with position_ids (512)."""
    assert shapes.known()["all_minilm_l6_v2"].parameters() + 512 == 22_713_728


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_A_FORM)
def test_a_reduced_checkpoint_becomes_an_artifact(name, tmp_path):
    fetched = reduced(name)
    artifact = convert(
        open_checkpoint(fetched.path), Scheme.parse("int4-rtn"), tmp_path / "int4-rtn"
    )
    assert fetched.synthetic
    ids = Tokenizer.from_folder(artifact.folder).encode("A text to be read.")
    assert 0 <= min(ids) <= max(ids) < artifact.config["vocab_size"]


@pytest.mark.slow
def test_the_same_recipe_is_written_once_and_gives_the_same_bytes(monkeypatch, tmp_path):
    first = open_checkpoint(reduced("smollm2_135m").path)
    assert reduced("smollm2_135m").path == first.path
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path))
    again = open_checkpoint(reduced("smollm2_135m").path)
    assert again.path != first.path
    assert again.fingerprint() == first.fingerprint()


@pytest.mark.slow
def test_weights_spread_as_trained_ones_do():
    checkpoint = open_checkpoint(reduced("smollm2_360m").path)
    gain = checkpoint.read("model.norm.weight")
    assert 0.8 < gain.mean() < 1.2
    assert gain.std() > 0.05
    weight = checkpoint.read("model.layers.0.self_attn.q_proj.weight")
    columns = weight.std(axis=0)  # (columns,)
    assert columns.max() / np.median(columns) > 2.5  # outlier channels
    assert checkpoint.tensors["model.norm.weight"].dtype == "BF16"


@pytest.mark.slow
def test_shards_hold_all_tensors_between_them():
    fetched = reduced("openelm_3b")
    checkpoint = open_checkpoint(fetched.path)
    assert len(list(fetched.path.glob("model-*.safetensors"))) == 2
    expected = shapes.known()["openelm_3b"].reduced().tensors()
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == expected


@pytest.mark.slow
def test_an_alias_shares_its_originals_checkpoint():
    assert reduced("tinyllama_1_1b_chat").path == reduced("tinyllama_1_1b_chat_v1_0").path


@pytest.mark.slow
@pytest.mark.parametrize("kind", tokenizers.TRAINERS)
def test_a_tokenizer_is_trained_where_none_is_here(kind):
    files = tokenizers._trained(kind)
    core = Core.from_buffer(files["tokenizer.json"])
    text = "two men said hello"  # lower case and no marks, which all kinds give back
    assert core.decode(core.encode(text).ids) == text
    assert core.get_vocab_size() <= tokenizers.TRAINED


def test_sizes_that_do_not_exist_are_refused():
    with pytest.raises(SourceError, match="'synthetic:tiny': there is no such size"):
        fetch(catalog.find_variant("smollm_135m"), "synthetic:tiny")
    with pytest.raises(SourceError, match="only synthetic weights have a size"):
        fetch(catalog.find_variant("smollm_135m"), "hub:reduced")
