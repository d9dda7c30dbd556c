"""A fault in this project's own reader makes a report fail: the reference reads without it.

Each fault is put into the reader, and the report on a small model of each family is drawn up as a
notebook does, to the result.json that `run` and `list` read. Judged by a model that the same reader
filled, most of them would pass.
"""

import inspect
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from support import originals as families
from support.originals import FAMILIES, WORDS
from tokenizers import normalizers, pre_tokenizers, processors

from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import folder as reader
from llmkg_lab.checkpoint.folder import FolderCheckpoint
from llmkg_lab.checkpoint.gguf import GGUFCheckpoint
from llmkg_lab.checkpoint.gguf_file import Metadata
from llmkg_lab.checkpoint.safetensors import SafetensorsCheckpoint
from llmkg_lab.measure.speed import Speed
from llmkg_lab.reference import load
from llmkg_lab.report.frame import Headline
from llmkg_lab.report.steps import DecoderReport, EncoderReport
from llmkg_lab.results.result import Result
from llmkg_lab.results.verdict import Verdict

VARIANT = """\
title: Small
tier: 1
task: {task}
architecture: {architecture}
license: apache-2.0
description: For tests.
sources: [{{local: {source}}}]
evaluation: {{corpora: [{corpus}]}}
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder of each family, in which each setting matters."""
    root = tmp_path_factory.mktemp("originals")
    families.make(root)
    return root


@pytest.fixture(autouse=True)
def workplace(originals, tmp_path, monkeypatch):
    """Texts of a few words, some of them capitalized, and a roster of the originals."""
    rng = np.random.default_rng(0)

    def words(count):
        return [word.title() if rng.random() < 0.3 else word for word in rng.choice(WORDS, count)]

    def row(number):
        """A sentence, the same with some words changed, and how alike people would call them."""
        left, changed = words(9), number % 5
        right = [*left[: 9 - 2 * changed], *words(2 * changed)]
        return f"{number}\t{' '.join(left)}\t{' '.join(right)}\t{4 - changed}\tx"

    (tmp_path / "sick-trial.tsv").write_text("\n".join(["head", *map(row, range(60))]))
    text = "\n".join(" ".join(words(count)).lower() for count in (1200, 1000))
    (tmp_path / "wikitext2-valid.txt").write_text(text)
    defaults = (paths.params() / "defaults.yaml").read_text()
    for name, (family, task, architecture, corpus) in FAMILIES.items():
        file = tmp_path / "params" / family / f"small_{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        said = {"task": task, "architecture": architecture, "corpus": corpus}
        file.write_text(VARIANT.format(source=originals / name, **said))
    (tmp_path / "params" / "defaults.yaml").write_text(defaults)
    monkeypatch.setenv("LLMKG_LAB_PARAMS", str(tmp_path / "params"))
    monkeypatch.setenv("LLMKG_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMKG_LAB_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture(autouse=True)
def without_a_page(monkeypatch):
    """No notebook shows the headline."""
    monkeypatch.setattr(Headline, "update", lambda *arguments: None)


def failure_of(name):
    """Why the report on a family's float32 artifact fails; empty where it passes."""
    family, task, *_ = FAMILIES[name]
    kind = DecoderReport if task == "text-generation" else EncoderReport
    report = kind(family, f"small_{name}", ["fp32"], quick=True)
    report.speeds = {"fp32": Speed({}, {})}  # seconds to measure, and never what fails
    try:
        report.finish()
    except LabError as error:  # in a cell, which ends the notebook
        assert Result.find(report.folder) is None
        return str(error)
    result = Result.find(report.folder)
    return "; ".join(result.schemes["fp32"].reasons) if result.verdict is Verdict.FAIL else ""


# The faults


def permute(tensor):
    """The rows of a tensor come in another order."""

    def into(monkeypatch):
        read = SafetensorsCheckpoint._read

        def wrong(self, info, start, stop):
            values = read(self, info, start, stop)
            return values[::-1].copy() if info.name == tensor else values

        monkeypatch.setattr(SafetensorsCheckpoint, "_read", wrong)

    return into


def ignore(key):
    """A key of config.json is not looked at."""

    def into(monkeypatch):
        read = reader.read_json

        def wrong(path):
            content = read(path)
            if path.name == "config.json":
                content.pop(key)
            return content

        monkeypatch.setattr(reader, "read_json", wrong)

    return into


def mistake(edit):
    """A setting of tokenizer.json is another one."""

    def edited(files):
        core = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
        edit(core)
        return {"tokenizer.json": core.to_str().encode()}

    return misread(edited)


def speak(edit):
    """The chat template is another one."""

    def edited(files):
        config = json.loads(files["tokenizer_config.json"])
        config["chat_template"] = edit(config["chat_template"])
        return {"tokenizer_config.json": json.dumps(config).encode()}

    return misread(edited)


def misread(edited):
    """Files are replaced by what ``edited`` makes of all of them."""

    def into(monkeypatch):
        for kind in (FolderCheckpoint, GGUFCheckpoint):
            read = kind.sidecars

            def wrong(self, read=read):
                files = read(self)
                return files | edited(files)

            monkeypatch.setattr(kind, "sidecars", wrong)

    return into


def without_start(core):
    core.post_processor = processors.TemplateProcessing("$A", None, [])


def with_digits_together(core):
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def without_space(core):
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)


def with_case(core):
    core.normalizer = normalizers.BertNormalizer(lowercase=False)


def with_one_type(core):
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    pair = "[CLS] $A [SEP] $B:0 [SEP]:0"
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, ends)


def pool(**said):
    """The pooling of the folder is not looked at, or a module that normalizes."""

    def into(monkeypatch):
        monkeypatch.setattr(FolderCheckpoint, "pooling", property(lambda self: POOLED | said))

    return into


def leave_interleaved(monkeypatch):
    """llama.cpp orders the rows of queries and keys otherwise."""
    monkeypatch.setattr(GGUFCheckpoint, "_permuted_heads", lambda self, name: 0)


def forget(key):
    """A key of GGUF's is not looked at."""

    def into(monkeypatch):
        get, default = Metadata.get, inspect.signature(Metadata.get).parameters["default"].default

        def wrong(self, name, kind, default=default):
            return default if name == key else get(self, name, kind, default)

        monkeypatch.setattr(Metadata, "get", wrong)

    return into


POOLED = {"mode": "cls", "normalize": True, "max_length": 64}
DOWN, EPSILON = "model.layers.1.mlp.down_proj.weight", "rms_norm_eps"
FAULTS = {
    ("smollm", "permuted tensor"): (permute(DOWN), "kl_mean"),
    ("smollm", "permuted head"): (
        permute("lm_head.weight"),
        "lm_head.weight is not what the judge",
    ),
    ("smollm", "rope ignored"): (ignore("rope_parameters"), "kl_mean"),
    ("smollm", "tokenizer"): (mistake(with_digits_together), "the text .*: token .* for the artif"),
    ("smollm", "chat template"): (
        speak(lambda template: template.replace("assistant\n", "assistant")),
        "asked by the chat template: token .* is missing for the artifact",
    ),
    ("smollm", "chat template lost"): (speak(lambda template: None), "alone has a chat template"),
    ("tinyllama", "permuted tensor"): (
        permute("model.layers.0.self_attn.k_proj.weight"),
        "kl_mean",
    ),
    ("tinyllama", "epsilon ignored"): (ignore(EPSILON), "kl_mean"),
    ("tinyllama", "tokenizer"): (mistake(without_space), "the letter a .*: token "),
    ("openelm", "permuted tensor"): (permute("transformer.layers.1.ffn.proj_2.weight"), "kl_mean"),
    ("openelm", "rope ignored"): (ignore("rope_freq_constant"), "kl_mean"),
    ("openelm", "tokenizer"): (mistake(without_start), "token 0 is "),
    ("gguf", "permuted tensor"): (leave_interleaved, "kl_mean"),
    ("gguf", "rope ignored"): (forget("llama.rope.freq_base"), "kl_mean"),
    ("gguf", "tokenizer"): (mistake(without_start), "token 0 is "),
    ("gguf", "chat template"): (
        speak(lambda template: template.replace("assistant\n", "assistant")),
        "asked by the chat template: token .* is missing for the artifact",
    ),
    ("embedder", "permuted tensor"): (permute("encoder.layer.1.output.dense.weight"), "cosine_min"),
    ("embedder", "epsilon ignored"): (ignore("layer_norm_eps"), "cosine_min"),
    ("embedder", "pooling ignored"): (pool(mode="mean"), "cosine_min"),
    ("embedder", "normalization ignored"): (pool(normalize=False), "have the length 1"),
    ("embedder", "tokenizer"): (mistake(with_case), r"\('\[UNK\]'\) of type 0 for the artifact"),
    ("multilingual", "permuted tensor"): (
        permute("embeddings.word_embeddings.weight"),
        "cosine_min",
    ),
    ("multilingual", "epsilon ignored"): (ignore("layer_norm_eps"), "cosine_min"),
    ("multilingual", "tokenizer"): (mistake(without_space), "of type 0 for the artifact"),
    ("ranker", "permuted tensor"): (permute("bert.pooler.dense.weight"), "score_pearson"),
    ("ranker", "epsilon ignored"): (ignore("layer_norm_eps"), "score_pearson"),
    ("ranker", "tokenizer"): (
        mistake(with_one_type),
        "of type 0 for the artifact, and .* of type 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_report_without_a_fault_passes(name):
    assert failure_of(name) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_report_finds_a_fault_in_the_reader(name, fault, monkeypatch):
    put, message = FAULTS[name, fault]
    put(monkeypatch)
    assert re.search(message, failure_of(name))


@pytest.mark.slow
def test_each_family_is_proved_by_a_tensor_a_key_and_a_tokenizer():
    for name in FAMILIES:
        faults = {fault for family, fault in FAULTS if family == name}
        assert {"permuted tensor", "tokenizer"} <= faults
        assert any(fault.endswith("ignored") for fault in faults)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm", "embedder"])
@pytest.mark.parametrize("fault", ["permuted tensor", "tokenizer"])
def test_judged_by_its_own_reader_it_would_not(name, fault, monkeypatch):
    for question in ("unread", "unread_tokenizer"):
        monkeypatch.setattr(load, question, lambda checkpoint: "this test asks so")
    FAULTS[name, fault][0](monkeypatch)
    assert failure_of(name) == ""


FAULTY = """\
from llmkg_lab.checkpoint.safetensors import SafetensorsCheckpoint

read = SafetensorsCheckpoint._read


def wrong(self, info, start, stop):
    values = read(self, info, start, stop)
    return values[::-1].copy() if info.name == {tensor!r} else values


SafetensorsCheckpoint._read = wrong
"""


@pytest.mark.slow
def test_a_run_fails_by_a_fault_in_the_reader(tmp_path):
    """The command with its processes, which Python patches as each of them starts."""
    (tmp_path / "sitecustomize.py").write_text(FAULTY.format(tensor=DOWN))
    options = ["--scheme", "fp32", "--set", "quick=true", "--out", tmp_path / "faulty", "--json"]
    run = subprocess.run(
        [sys.executable, "-m", "llmkg_lab.cli", "run", "small_tinyllama", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    (outcome,) = json.loads(run.stdout)
    assert (outcome["state"], outcome["verdict"]) == ("done", "fail"), run.stderr
    assert run.returncode == 1
