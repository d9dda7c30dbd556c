"""A report's parameters, and what it makes of a variant that says how it is spoken to."""

import json

import pytest
import tokenizers
from support import tiny_checkpoints as tiny
from tokenizers import models, pre_tokenizers

from llmkg_lab.artifact import Source
from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.measure.protocol import _prompt
from llmkg_lab.report import tables
from llmkg_lab.report.steps import DecoderReport, EncoderReport
from llmkg_lab.sources import fetch

VARIANT = """\
title: Tiny
tier: 1
task: text-generation
architecture: llama
license: apache-2.0
description: For tests.
schemes: [fp32, int8-rtn, int4-gptq]
sources: [{{local: {source}}}]
"""
TEMPLATE = "{% for message in messages %}Human {{ message.content }} {% endfor %}"


@pytest.fixture
def roster(tmp_path, monkeypatch):
    """A SmolLM variant, ``tiny``, whose checkpoint has no tokenizer; and what its YAML may add."""
    (tmp_path / "model").mkdir()
    tiny.write_safetensors(tmp_path / "model")
    (tmp_path / "tokenizer").mkdir()
    core = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "Human": 1, "hello": 2}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    (tmp_path / "tokenizer" / "config.json").write_text("{}")
    folder = tmp_path / "params" / "smollm"
    folder.mkdir(parents=True)
    defaults = (paths.params() / "defaults.yaml").read_text()
    (folder.parent / "defaults.yaml").write_text(defaults)
    monkeypatch.setenv("LLMKG_LAB_PARAMS", str(folder.parent))
    monkeypatch.setenv("LLMKG_LAB_OUTPUTS", str(tmp_path / "outputs"))

    def write(source=tmp_path / "model", has_tokenizer=False, template=""):
        added = f"tokenizer_source: {{local: {tmp_path / 'tokenizer'}}}\n" if has_tokenizer else ""
        added += f'chat_template: "{template}"\n' if template else ""
        (folder / "tiny.yaml").write_text(VARIANT.format(source=source) + added)

    write()
    return write


def test_a_variants_own_tokenizer_and_chat_template_reach_the_artifact(roster):
    bare = DecoderReport("smollm", "tiny", ["fp32"]).artifacts["fp32"]
    assert not (bare.folder / "tokenizer.json").exists()
    roster(has_tokenizer=True)
    tokenizer = DecoderReport("smollm", "tiny", ["fp32"]).tokenizer
    assert tokenizer.encode("hello") == _prompt(tokenizer, "hello") == [2]
    roster(has_tokenizer=True, template=TEMPLATE)
    report = DecoderReport("smollm", "tiny", ["fp32"])
    assert _prompt(report.tokenizer, "hello") == [1, 2]  # of an example, asked by the template
    prompt = report.tokenizer.chat([{"role": "user", "content": "hello"}])  # converted once more
    assert prompt == "Human hello "
    assert report.tokenizer.encode(prompt) == [1, 2]
    source = report.artifacts["fp32"].manifest.source
    assert "tokenizer of local" in source.detail
    assert source == Source(**report.fetched.origin, fingerprint=report.checkpoint.fingerprint())


def test_a_gguf_file_without_a_template_takes_the_variants(roster, tmp_path):
    def add_tokenizer(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list([f"<{i}>" for i in range(40)])
        writer.add_token_scores([0.0] * 40)
        writer.add_token_types([1] * 40)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    (tmp_path / "gguf").mkdir()
    tiny.write_gguf(tmp_path / "gguf", add=add_tokenizer)
    roster(source=tmp_path / "gguf" / "model.gguf", template=TEMPLATE)
    variant = DecoderReport("smollm", "tiny").variant
    config = json.loads(fetch(variant).open().sidecars()["tokenizer_config.json"])
    assert config["chat_template"] == TEMPLATE


def test_a_checkpoint_of_another_form_is_refused_as_it_is_opened(roster, minilm_folder):
    report = DecoderReport("smollm", "tiny", source=str(minilm_folder))
    with pytest.raises(LabError, match="local model is a bert, and tiny is a llama"):
        report.checkpoint  # noqa: B018


def asked(schemes=(), quick=True):
    return DecoderReport("smollm", "tiny", schemes, quick=quick)._asked


def test_parameters_are_understood_as_papermill_hands_them_on(roster):
    for given in (
        ["int8-rtn", "int4-b64"],
        '["int8-rtn", "int4-b64"]',
        "int8-rtn,INT4-b64",
        "[int8-rtn, int4-b64]",
    ):
        assert asked(given).schemes == ["int8-rtn", "int4-b64"]
    assert [asked(quick=text).quick for text in (True, "True", "false")] == [True, True, False]
    for nothing in ([], "", "[]"):
        assert asked(nothing).schemes == ["fp32", "int8-rtn"]  # what calibrates takes minutes
    assert asked(quick=False).schemes == ["fp32", "int8-rtn", "int4-gptq"]


@pytest.mark.parametrize(
    ("open_report", "message"),
    [
        (lambda: asked(quick="maybe"), "quick is 'maybe'\n.*write True or False"),
        (lambda: asked(quick=1), "quick is 1\n"),
        (lambda: asked(8), "schemes is 8\n.*write a list such as"),
        (lambda: asked([8]), "schemes is .8.\n"),
        (lambda: asked('["int8-rtn"'), "schemes is '..int8-rtn.'\n"),
        (lambda: asked("int5"), "unknown scheme 'int5'"),
        (lambda: DecoderReport("smollm", 3), "variant is 3\n.*in quotes"),
        (lambda: DecoderReport("smollm", "tony"), "did you mean 'tiny'"),
        (lambda: DecoderReport("openelm", "tiny"), "of the family smollm.*\n.*open smollm.ipynb"),
        (lambda: EncoderReport("minilm", "tiny"), "of the family smollm.*\n.*open smollm.ipynb"),
    ],
)
def test_what_makes_no_sense_is_refused_in_the_first_cell(open_report, message, roster, capsys):
    with pytest.raises(LabError, match=message):
        open_report()
    assert capsys.readouterr().out == ""  # no headline that would wait for ever


def test_an_encoders_id_is_refused_by_a_decoders_notebook():
    with pytest.raises(LabError, match=r"(?s)of the family minilm.*open minilm.ipynb"):
        DecoderReport("smollm", "all_minilm_l6_v2")


def test_running_text_keeps_its_lines_and_a_wide_table_scrolls():
    table = tables.rows_table(
        [{"prompt": "def f():", "written": "\n    return 1"}], text=["written"]
    )
    assert "white-space:pre-wrap" in table.data.split("<td")[2]
    assert "\n    return 1" in table.data
    assert "overflow-x:auto" in table.data
    assert "overflow-wrap:anywhere" not in table.data  # which breaks words every three letters
