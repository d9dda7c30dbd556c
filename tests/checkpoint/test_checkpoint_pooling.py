"""Pooling as sentence-transformers' files say it, in the form of each of its versions."""

import json

import pytest
from support.tiny_checkpoints import write_safetensors

from llmkg_lab.checkpoint import CheckpointError, open_checkpoint

MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def pooling(folder, modules=MODULES, config=None, **files):
    """What is read of such a folder. files: other JSON files by stem."""
    write_safetensors(folder)
    files |= {"modules": modules, "1_Pooling/config": config or {"pooling_mode": "mean"}}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return open_checkpoint(folder).pooling


def test_no_modules_no_pooling(tmp_path):
    write_safetensors(tmp_path)
    assert open_checkpoint(tmp_path).pooling is None
    assert pooling(tmp_path, MODULES[:1]) is None


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"embedding_dimension": 64, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"word_embedding_dimension": 64}, "mean"),
        ({"pooling_mode_mean_tokens": False}, "mean"),
    ],
)
def test_modes(config, mode, tmp_path):
    assert pooling(tmp_path, MODULES, config)["mode"] == mode


def test_normalization_is_a_module_of_its_own(tmp_path):
    assert pooling(tmp_path)["normalize"] is True
    assert pooling(tmp_path, MODULES[:2])["normalize"] is False


def test_the_encoders_length_counts_before_its_tokenizers(tmp_path):
    assert pooling(tmp_path)["max_length"] == 32  # the positions of config.json
    assert pooling(tmp_path, tokenizer_config={"model_max_length": 24})["max_length"] == 24
    assert pooling(tmp_path, sentence_bert_config={"max_seq_length": 16})["max_length"] == 16
    assert pooling(tmp_path, sentence_bert_config={"max_seq_length": 28})["max_length"] == 28
    longer = {"sentence_bert_config": {"max_seq_length": 512}}
    no_limit = {"tokenizer_config": {"model_max_length": 1e30}}  # what transformers writes for none
    assert pooling(tmp_path, **longer, **no_limit)["max_length"] == 32


DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
ELSEWHERE = {**MODULES[1], "path": "../other"}


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("embeds by Transformer, Pooling, Dense", {"modules": [*MODULES[:2], DENSE]}),
        ("embeds by nothing", {"modules": []}),
        (r"names '\.\./other'", {"modules": [MODULES[0], ELSEWHERE]}),
        (r"modules\.json names the class None", {"modules": [{"path": ""}]}),
        (r"modules\.json is not a list", {"modules": 7}),
        ("pooling by max is not supported", {"config": {"pooling_mode": "max"}}),
        ("pooling by mean, cls is not supported", {"config": {"pooling_mode": ["mean", "cls"]}}),
        ("pooling by 5 is not supported", {"config": {"pooling_mode": 5}}),
        ("max_seq_length is 0", {"sentence_bert_config": {"max_seq_length": 0}}),
        ("model_max_length is nan", {"tokenizer_config": {"model_max_length": float("nan")}}),
        ("max_seq_length is 'long'", {"sentence_bert_config": {"max_seq_length": "long"}}),
    ],
)
def test_what_the_graph_would_not_do_is_refused(message, wrong, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        pooling(tmp_path, **wrong)
