"""A fault in this project's own reader makes a report fail: the reference reads without it.

Each fault is put into the reader, and the report on a small model of each family is drawn up as a
notebook does. Judged by a model that the same reader filled, most of them would pass.
"""

import json
import re

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors

from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import folder as reader
from llmkg_lab.checkpoint.folder import FolderCheckpoint
from llmkg_lab.checkpoint.safetensors import SafetensorsCheckpoint
from llmkg_lab.models.openelm import OpenELMForm
from llmkg_lab.reference import load
from llmkg_lab.report.steps import DecoderReport, EncoderReport
from llmkg_lab.results.verdict import Verdict

WORDS = ("the", "people", "of", "state", "said", "that", "two", "men", "were", "there")
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
FAMILIES = {  # variant: family, task, architecture, corpus
    "llama": ("smollm", "text-generation", "llama", "wikitext2"),
    "openelm": ("openelm", "text-generation", "openelm", "wikitext2"),
    "embedder": ("minilm", "sentence-embedding", "bert", "sick"),
    "ranker": ("minilm", "text-ranking", "bert", "sick"),
}
BERT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "layer_norm_eps": 0.3,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder of each family, in which each setting matters."""
    root = tmp_path_factory.mktemp("originals")
    torch.manual_seed(0)
    llama = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        rms_norm_eps=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 20.0},
    )
    save(transformers.LlamaForCausalLM(llama), root / "llama")
    write_decoders_tokenizer(root / "llama")
    write_openelm(root / "openelm")
    write_decoders_tokenizer(root / "openelm")
    config = transformers.BertConfig(**BERT, num_labels=1)
    save(transformers.BertModel(config), root / "embedder")
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    content = [
        {
            "idx": int(name),
            "name": name,
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for name, path, kind in [*modules, ("2", "2_Normalize", "Normalize")]
    ]
    (root / "embedder" / "modules.json").write_text(json.dumps(content))
    (root / "embedder" / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    (root / "embedder" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    save(transformers.BertForSequenceClassification(config), root / "ranker")
    for name in ("embedder", "ranker"):
        write_encoders_tokenizer(root / name)
    return root


def save(model, folder):
    """Save a model whose weights are large enough for every part to matter."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)


def write_openelm(folder):
    config = {
        "model_type": "openelm",
        "architectures": ["OpenELMForCausalLM"],
        "activation_fn_name": "swish",
        "normalization_layer_name": "rms_norm",
        "ffn_with_glu": True,
        "normalize_qk_projections": True,
        "share_input_output_layers": True,
        "vocab_size": 40,
        "model_dim": 32,
        "head_dim": 16,
        "num_transformer_layers": 2,
        "num_query_heads": [2, 4],
        "num_kv_heads": [1, 2],
        "ffn_multipliers": [0.5, 1.5],
        "ffn_dim_divisor": 16,
        "max_context_length": 256,
        "rope_max_length": 512,
        "rope_freq_constant": 20,
    }
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in OpenELMForm.read(config).tensors():
        drawn = rng.standard_normal(shape, np.float32)
        tensors[name] = 1 + 0.3 * drawn if len(shape) == 1 else 0.3 * drawn
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def write_decoders_tokenizer(folder):
    vocabulary = {word: i for i, word in enumerate(("<unk>", "<s>", *WORDS))}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    core.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_encoders_tokenizer(folder):
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)


@pytest.fixture(autouse=True)
def workplace(originals, tmp_path, monkeypatch):
    """Texts of a few words, some of them capitalized, and a roster of the originals."""
    rng = np.random.default_rng(0)

    def words(count):
        return " ".join(
            word.title() if rng.random() < 0.3 else word for word in rng.choice(WORDS, count)
        )

    rows = [f"{i}\t{words(9)}\t{words(7)}\t{i % 5}\tx" for i in range(60)]
    (tmp_path / "sick-trial.tsv").write_text("\n".join(["head", *rows]))
    text = "\n".join(words(count).lower() for count in (1200, 1000))
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


def failure_of(name):
    """Why the report on a family's float32 artifact fails; empty where it passes."""
    family, task, *_ = FAMILIES[name]
    kind = DecoderReport if task == "text-generation" else EncoderReport
    report = kind(family, f"small_{name}", ["fp32"], quick=True)
    try:
        judgement = report.judgements["fp32"]
    except LabError as error:
        return str(error)
    return "; ".join(judgement.reasons) if judgement.verdict is Verdict.FAIL else ""


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

    def into(monkeypatch):
        read = FolderCheckpoint.sidecars

        def wrong(self):
            files = read(self)
            core = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
            edit(core)
            return files | {"tokenizer.json": core.to_str().encode()}

        monkeypatch.setattr(FolderCheckpoint, "sidecars", wrong)

    return into


def without_start(core):
    core.post_processor = processors.TemplateProcessing("$A", None, [])


def with_case(core):
    core.normalizer = normalizers.BertNormalizer(lowercase=False)


def with_one_type(core):
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    pair = "[CLS] $A [SEP] $B:0 [SEP]:0"
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, ends)


def read_the_mean(monkeypatch):
    """The pooling of the folder is not looked at."""
    said = {"mode": "mean", "normalize": True, "max_length": 64}
    monkeypatch.setattr(FolderCheckpoint, "pooling", property(lambda self: said))


def leave_as_long(monkeypatch):
    """The module that normalizes is not looked at."""
    said = {"mode": "cls", "normalize": False, "max_length": 64}
    monkeypatch.setattr(FolderCheckpoint, "pooling", property(lambda self: said))


FAULTS = {
    ("llama", "permuted tensor"): (permute("model.layers.1.mlp.down_proj.weight"), "kl_mean"),
    ("llama", "permuted head"): (permute("lm_head.weight"), "lm_head.weight is not what the judge"),
    ("llama", "rope ignored"): (ignore("rope_parameters"), "kl_mean"),
    ("llama", "epsilon ignored"): (ignore("rms_norm_eps"), "kl_mean"),
    ("llama", "tokenizer"): (
        mistake(without_start),
        r"token 0 is \d+ \('<unk>'\) for the artifact",
    ),
    ("openelm", "permuted tensor"): (permute("transformer.layers.1.ffn.proj_2.weight"), "kl_mean"),
    ("openelm", "rope ignored"): (ignore("rope_freq_constant"), "kl_mean"),
    ("openelm", "tokenizer"): (mistake(without_start), "token 0 is "),
    ("embedder", "permuted tensor"): (permute("encoder.layer.1.output.dense.weight"), "cosine_min"),
    ("embedder", "epsilon ignored"): (ignore("layer_norm_eps"), "cosine_min"),
    ("embedder", "pooling ignored"): (read_the_mean, "cosine_min"),
    ("embedder", "normalization ignored"): (leave_as_long, "have the length 1"),
    ("embedder", "tokenizer"): (mistake(with_case), r"\('\[UNK\]'\) of type 0 for the artifact"),
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
@pytest.mark.parametrize("name", ["llama", "embedder"])
@pytest.mark.parametrize("fault", ["permuted tensor", "epsilon ignored", "tokenizer"])
def test_judged_by_its_own_reader_it_would_not(name, fault, monkeypatch):
    for question in ("unread", "unread_tokenizer"):
        monkeypatch.setattr(load, question, lambda checkpoint: "this test asks so")
    FAULTS[name, fault][0](monkeypatch)
    assert failure_of(name) == ""
