"""Folders of sentence-transformers: its own vectors and scores are what is right."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from support import tiny_folders as tiny

from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import CheckpointError, open_checkpoint
from llmkg_lab.conversion import to_gguf
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data.texts import Candidates
from llmkg_lab.reference.outputs import embedder_reference, ranker_reference
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.candle.encoder import CandleEncoder
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.scheme import Scheme

TEXTS = [
    "A Cat sat.",
    "a cat sat.",
    "Where Did the dog sleep?",
    "x",
    "what is a very long text " * 6,
]
PAIRS = [("who sat", "A cat sat."), ("a man", "Where did he sleep?"), ("Why", "what is it " * 20)]
CLASSIFIER = transformers.BertForSequenceClassification
SETTINGS = "config_sentence_transformers"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny.embedder(tmp_path_factory.mktemp("st") / "embedder")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "embedder")


def vectors(folder, texts=TEXTS):
    return SentenceTransformer(str(folder), device="cpu").encode(texts)


def check(folder, texts=TEXTS):
    """Vectors, and those of the project's reference; returns them and the artifact."""
    expected = vectors(folder, texts)
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), folder.with_name("artifact"))
    embedded = Embedder(artifact).embed(texts)
    np.testing.assert_allclose(embedded, expected, atol=2e-5)
    reference = embedder_reference(open_checkpoint(folder), texts)
    np.testing.assert_allclose(reference.embeddings, expected, atol=2e-5)
    return expected, artifact


def add_normalize(folder, **config):
    kind = "sentence_transformers.models.Normalize"
    module = {"idx": 2, "name": "2", "path": "2_Normalize", "type": kind}
    tiny.write(folder, modules=[*tiny.MODULES, module])
    (folder / "2_Normalize").mkdir()
    tiny.write(folder, **{"2_Normalize/config": config})


def test_a_plain_embedder(folder):
    assert open_checkpoint(folder).warnings == ()
    _, artifact = check(folder)
    assert set(json.loads((artifact.folder / "manifest.json").read_text())["pooling"]) == {
        "mode", "normalize", "max_length"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"word_embedding_dimension": 32},
        {"embedding_dimension": 32, "pooling_mode": "cls"},
        {"embedding_dimension": 32, "pooling_mode": ["mean"], "include_prompt": False},
        {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False},
    ],
)
def test_pooling_files(config, folder):
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    check(folder)


@pytest.mark.slow
def test_a_default_prompt_is_put_before_each_text(folder):
    before = vectors(folder)
    prompts = {"query": "find: ", "passage": "keep: "}
    tiny.write(folder, **{SETTINGS: {"prompts": prompts, "default_prompt_name": "query"}})
    expected, artifact = check(folder)
    assert np.abs(expected - before).max() > 0.01
    assert artifact.manifest.pooling.prompt == "find: "
    (warning,) = artifact.manifest.cautions
    assert "prompts passage are put before no text" in warning
    with pytest.raises(LabError, match="GGUF export of an embedder with a prompt"):
        to_gguf.export(open_checkpoint(folder), "F16", folder.with_name("gguf"))


@pytest.mark.slow
def test_prompts_that_none_is_the_default_of(folder):
    before = vectors(folder)
    tiny.write(folder, **{SETTINGS: {"prompts": {"query": "find: ", "document": ""}}})
    expected, artifact = check(folder)
    np.testing.assert_array_equal(expected, before)
    assert "prompts query are put before no text" in artifact.manifest.cautions[0]


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("default_prompt_name is 'other'", {"default_prompt_name": "other"}),
        ("prompts are not texts", {"prompts": ["a"]}),
        ("prompts are not texts", {"prompts": {"query": 3}}),
        ("truncate_dim is 0", {"truncate_dim": 0}),
        ("truncate_dim is 'x'", {"truncate_dim": "x"}),
        ("model_type is 'SparseEncoder'", {"model_type": "SparseEncoder"}),
    ],
)
def test_settings_that_make_no_sense(message, settings, folder):
    tiny.write(folder, **{SETTINGS: settings})
    with pytest.raises(CheckpointError, match=message):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), folder.with_name("artifact"))


def test_vectors_that_are_not_normalized_are_not_exported(folder, tmp_path):
    """llama.cpp's tools would normalize them, and GGUF cannot say otherwise."""
    with pytest.raises(LabError, match="an embedder that does not normalize its vectors"):
        to_gguf.export(open_checkpoint(folder), "F32", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pooling_that_leaves_a_prompt_out_is_refused(folder):
    tiny.write(folder, **{SETTINGS: {"prompts": {"q": "find: "}, "default_prompt_name": "q"}})
    tiny.write(folder, **{"1_Pooling/config": {"include_prompt": False}})
    with pytest.raises(CheckpointError, match="include_prompt is false"):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), folder.with_name("artifact"))


@pytest.mark.slow
def test_texts_are_lower_cased_where_the_encoder_says_so(folder):
    before = vectors(folder)
    tiny.write(folder, sentence_bert_config={"do_lower_case": True})
    expected, _ = check(folder)
    np.testing.assert_array_equal(expected[0], expected[1])
    assert np.abs(expected - before).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kept", [16, 64])
def test_embeddings_are_truncated(kept, folder):
    """After they are normalized, so that what is left is shorter than 1."""
    add_normalize(folder)
    tiny.write(folder, **{SETTINGS: {"truncate_dim": kept}})
    expected, artifact = check(folder)
    assert expected.shape[1] == min(kept, 32)
    assert artifact.manifest.pooling.truncate_dim in ({16} if kept == 16 else {None, False}) or (
        kept == 64 and not artifact.manifest.pooling.truncate_dim
    )


def test_another_vector_is_not_normalized(folder):
    add_normalize(folder, module_input_name="token_embeddings")
    with pytest.raises(CheckpointError, match="module_input_name is 'token_embeddings'"):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), folder.with_name("artifact"))


@pytest.mark.slow
@pytest.mark.parametrize("normalized", [False, True])
def test_a_text_without_tokens_is_the_zero_vector(normalized, folder):
    tiny.letters_tokenizer(ends=False).save(str(folder / "tokenizer.json"))
    tiny.write(folder, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"})
    if normalized:
        add_normalize(folder)
    expected, artifact = check(folder, ["", "a cat", "   "])
    assert not expected[[0, 2]].any()
    embedder = Embedder(artifact)
    np.testing.assert_array_equal(embedder.embed(["", ""]), np.zeros((2, 32)))
    assert embedder.embed([]).shape == (0, 32)


def test_an_encoder_in_a_folder_of_its_own(folder):
    before = vectors(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inner / name)
    tiny.write(inner, sentence_bert_config={"max_seq_length": 16})
    modules = json.loads((folder / "modules.json").read_text())
    tiny.write(folder, modules=[{**modules[0], "path": "0_Transformer"}, *modules[1:]])
    expected, _ = check(folder)
    np.testing.assert_allclose(expected[:2], before[:2], atol=1e-6)
    assert np.abs(expected[-1] - before[-1]).max() > 1e-3  # which 16 tokens cut


@pytest.mark.parametrize("name", ["..", "a" * 256, "a\0", "a/b", "/tmp", 1, None])
@pytest.mark.parametrize("place", [0, 1])
def test_a_module_lies_in_a_folder_beside_its_list(name, place, folder):
    """What lies elsewhere would be read, and published with the artifact."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[place]["path"] = name
    tiny.write(folder, modules=modules)
    with pytest.raises(CheckpointError, match="which is not a folder beside it"):
        _ = open_checkpoint(folder).pooling


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "tokenizer"),
    [({"max_seq_length": 24}, {"model_max_length": 12}), ({}, {"model_max_length": 12}), ({}, {})],
)
def test_lengths(encoder, tokenizer, folder):
    """The encoder's setting counts before its tokenizer's."""
    tiny.write(folder, sentence_bert_config=encoder, tokenizer_config=tokenizer)
    check(folder)


def test_a_decoder_that_is_pooled_is_refused(tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
    tiny.write(folder, modules=tiny.MODULES, **{"1_Pooling/config": pooling})
    with pytest.raises(CheckpointError, match=r"modules\.json pools the states of a text-gener"):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "out")


def test_candle_embeds_a_folder_by_all_its_settings(folder):
    pytest.importorskip("candle")
    for files in (
        {SETTINGS: {"truncate_dim": 8}},
        {SETTINGS: {"prompts": {"q": "find: "}, "default_prompt_name": "q", "truncate_dim": None}},
        {SETTINGS: {"default_prompt_name": None}, "sentence_bert_config": {"do_lower_case": True}},
    ):
        tiny.write(folder, **files)
        np.testing.assert_allclose(CandleEncoder(folder).embed(TEXTS), vectors(folder), atol=2e-6)


# --- a plain encoder, without modules.json ---


def test_a_plain_encoder_is_cut_to_its_tokenizers_length(tmp_path):
    """Its mean is normalized here; sentence-transformers gives it as it is."""
    folder = tiny.bert(tmp_path / "bert")
    tiny.write(folder, tokenizer_config={"model_max_length": 12})
    mean = vectors(folder)
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "artifact")
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(Embedder(artifact).embed(TEXTS), expected, atol=2e-5)


# --- cross-encoders ---


@pytest.fixture
def ranker(tmp_path):
    return tiny.bert(tmp_path / "ranker", CLASSIFIER, num_labels=1)


def check_scores(folder):
    model = CrossEncoder(str(folder), device="cpu")
    expected = model.predict(PAIRS, activation_fn=torch.nn.Identity())
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), folder.with_name("artifact"))
    np.testing.assert_allclose(Ranker(artifact).score(PAIRS), expected, atol=2e-5)
    candidates = Candidates(PAIRS, np.arange(3))
    reference = ranker_reference(open_checkpoint(folder), candidates)
    np.testing.assert_allclose(reference.scores, expected, atol=2e-5)
    return expected


def test_scores(ranker):
    check_scores(ranker)


@pytest.mark.slow
def test_a_cross_encoder_whose_tokenizer_gives_no_types(ranker):
    before = check_scores(ranker)
    shutil.rmtree(ranker.with_name("artifact"))
    names = ["input_ids", "attention_mask"]
    tiny.write(ranker, tokenizer_config={"model_input_names": names})
    assert np.abs(check_scores(ranker) - before).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("length", ["tokenizer", "encoder"])
def test_the_length_of_a_cross_encoder(length, ranker):
    before = check_scores(ranker)
    shutil.rmtree(ranker.with_name("artifact"))
    if length == "tokenizer":
        tiny.write(ranker, tokenizer_config={"model_max_length": 12})
    else:  # as sentence-transformers saves one today
        task = {"max_seq_length": 12, "transformer_task": "sequence-classification"}
        tiny.write(ranker, modules=tiny.MODULES[:1], sentence_bert_config=task)
        tiny.write(ranker, **{SETTINGS: {"model_type": "CrossEncoder"}})
    assert np.abs(check_scores(ranker) - before).max() > 1e-3


def test_a_cross_encoder_as_sentence_transformers_saves_it(ranker, tmp_path):
    CrossEncoder(str(ranker), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert open_checkpoint(tmp_path / "saved").warnings == ()
    check_scores(tmp_path / "saved")


def test_a_cross_encoders_prompt_is_refused(ranker):
    prompt = {"prompts": {"q": "find: "}, "default_prompt_name": "q"}
    tiny.write(ranker, **{SETTINGS: {"model_type": "CrossEncoder", **prompt}})
    tiny.write(ranker, modules=tiny.MODULES[:1])
    with pytest.raises(CheckpointError, match="default_prompt_name puts 'find: ' before"):
        convert(open_checkpoint(ranker), Scheme.parse("fp32"), ranker.with_name("artifact"))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [{"num_labels": 1}, {"id2label": {"0": "LABEL_0"}}])
def test_labels_named_or_counted(labels, ranker):
    config = json.loads((ranker / "config.json").read_text())
    for key in ("id2label", "label2id", "num_labels"):
        config.pop(key, None)
    (ranker / "config.json").write_text(json.dumps(config | labels))
    check_scores(ranker)


def test_one_type_of_tokens(tmp_path):
    """transformers fails on the second of a pair, too, unless its tokenizer gives no types."""
    folder = tiny.bert(tmp_path / "ranker", CLASSIFIER, num_labels=1, type_vocab_size=1)
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "artifact")
    with pytest.raises(InferenceError, match="gives token_type_ids of 1, and the model embeds 1"):
        Ranker(artifact).score(PAIRS)


def test_a_tokenizer_larger_than_the_table(folder):
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["vocab"]["cat"] = 500
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), folder.with_name("artifact"))
    embedder = Embedder(artifact)
    assert np.isfinite(embedder.embed(["A dog"])).all()
    with pytest.raises(InferenceError, match="gives input_ids of 500, and the model embeds 128"):
        embedder.embed(["a cat"])
