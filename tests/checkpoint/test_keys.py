"""Each key of each file around the weights: followed, harmless, noted or refused, by its table."""

import inspect
import json
import shutil

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support import tiny_folders as tiny
from support.tiny_checkpoints import write_gguf

from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import claims, keys, open_checkpoint
from llmkg_lab.checkpoint.folder import TOKENIZER
from llmkg_lab.checkpoint.tables import page, tables
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.measure.quality import Quality
from llmkg_lab.measure.speed import Speed
from llmkg_lab.models.bert import BertForm
from llmkg_lab.models.keys import remarks, rule_of
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.results.collect import result_of
from llmkg_lab.results.verdict import Judgement, Verdict
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import Fetched

ODD = ["odd", {"odd": 1}]  # what no table says changes nothing
FILES = {  # where a table's file lies in an embedder's folder
    "tokenizer_config.json": keys.TOKENIZER_CONFIG,
    "special_tokens_map.json": keys.SPECIAL_TOKENS,
    "generation_config.json": keys.GENERATION,
    "sentence_bert_config.json": keys.SENTENCE_BERT,
    "config_sentence_transformers.json": keys.SENTENCE_TRANSFORMERS,
    "1_Pooling/config.json": keys.POOLING,
    "2_Normalize/config.json": keys.NORMALIZE,
    "config.json": BertForm.keys,
}
TABLES = tables()


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tiny.embedder(tmp_path_factory.mktemp("keys") / "embedder")
    normalize = {**tiny.MODULES[0], "path": "2_Normalize"}
    normalize["type"] = normalize["type"].replace("Transformer", "Normalize")
    (folder / "2_Normalize").mkdir()
    tiny.write(folder, modules=[*tiny.MODULES, normalize])
    return folder


def example(key):
    return key.replace("*", "x")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_a_reason_for_what_it_does_not_follow(name):
    for key, rule in TABLES[name].items():
        assert rule.kind == "followed" or rule.why, key
        assert rule.kind in ("noted", "refused") or not rule.unless, key


def test_every_file_has_a_table_that_readers_find():
    """Of those that the field's own tools read; and the page in the docs shows them."""
    named = " ".join(TABLES)
    for name in (
        *("config.json", "generation_config.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "added_tokens.json", "tokenizer.json", "modules.json"),
        *("sentence_bert_config.json", "config_sentence_transformers.json", "Pooling/config.json"),
        *("adapter_config.json", "quantization_config", "Normalize/config.json", "GGUF"),
        *claims.QUANTIZERS,
    ):
        assert name in named
    for pattern in TOKENIZER | dict.fromkeys(FILES):
        assert any(pattern in name for name in TABLES), pattern
    assert (paths.ROOT / "docs" / "reference" / "files.md").read_text() == page()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_each_key_of_a_file(name, embedder, tmp_path):
    """Fed to a checkpoint as its file: nothing is said of what is harmless, all else by name."""
    folder = shutil.copytree(embedder, tmp_path / "embedder")
    path = folder / name
    before = json.loads(path.read_text()) if path.exists() else {}

    def said(key, value):
        path.write_text(json.dumps(before | {key: value}))
        return open_checkpoint(folder).warnings

    assert said("of_tomorrow", None) == ()
    (warning,) = said("of_tomorrow", 7)
    assert "of_tomorrow is not known here" in warning
    for key, rule in FILES[name].items():
        for value in rule.unless:
            assert said(example(key), value) == (), key
        for value in ODD if rule.kind != "followed" else ():
            if rule.kind == "refused":
                with pytest.raises(LabError, match=f"{example(key)} is "):
                    said(example(key), value)
            else:
                noted = [f"{example(key)} is "] if rule.kind == "noted" else []
                warnings = said(example(key), value)
                assert len(warnings) == len(noted), (key, warnings)
                assert all(word in warning for word, warning in zip(noted, warnings, strict=True))


def test_each_key_of_a_module(embedder, tmp_path):
    folder = shutil.copytree(embedder, tmp_path / "embedder")
    modules = json.loads((folder / "modules.json").read_text())
    for key, word in {"kwargs": "kwargs is", "of_tomorrow": "of_tomorrow is not known"}.items():
        tiny.write(folder, modules=[{**modules[0], key: ["task"]}, *modules[1:]])
        try:
            message = " ".join(open_checkpoint(folder).warnings)
        except LabError as error:
            message = error.message
        assert word in message
    tiny.write(folder, modules=[{**modules[0], "kwargs": [], "idx": 9}, *modules[1:]])
    assert open_checkpoint(folder).warnings == ()


def test_a_class_of_another_package_is_refused(embedder, tmp_path):
    """Its last name may be Transformer: what it does is written in code beside the weights."""
    folder = shutil.copytree(embedder, tmp_path / "embedder")
    modules = json.loads((folder / "modules.json").read_text())
    tiny.write(folder, modules=[{**modules[0], "type": "custom_st.Transformer"}, *modules[1:]])
    with pytest.raises(LabError, match=r"names the class 'custom_st\.Transformer'"):
        open_checkpoint(folder)


def test_the_parts_of_a_tokenizer(embedder, tmp_path):
    folder = shutil.copytree(embedder, tmp_path / "embedder")
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())

    def said(**parts):
        path.write_text(json.dumps(spec | parts))
        return open_checkpoint(folder).warnings

    assert said(version="2.0", padding={"direction": "Left"}) == ()
    assert "of_tomorrow is not known" in said(of_tomorrow=1)[0]
    token = {**spec["added_tokens"][0], "glued": True}
    assert "added_tokens: glued is not known" in said(added_tokens=[token])[0]
    for part in keys.KINDS:
        with pytest.raises(LabError, match=rf"tokenizer\.json: {part} of the kind 'Magic'"):
            said(**{part: {"type": keys.KINDS[part][0], "normalizers": [{"type": "Magic"}]}})


def test_kinds_are_those_of_the_library():
    """Abstract classes aside."""
    abstract = {"Model", "Normalizer", "PreTokenizer", "PostProcessor", "Decoder", "DecodeStream"}
    modules = {
        "model": tokenizers.models,
        "normalizer": tokenizers.normalizers,
        "pre_tokenizer": tokenizers.pre_tokenizers,
        "post_processor": tokenizers.processors,
        "decoder": tokenizers.decoders,
    }
    renamed = {"BPEDecoder", "CTC", "WordPiece"}  # tokenizer.json's names
    for part, module in modules.items():
        theirs = {name for name, kind in vars(module).items() if inspect.isclass(kind)} - abstract
        assert theirs <= set(keys.KINDS[part]) | renamed, part


def test_all_that_the_libraries_know_is_in_a_table():
    known = [
        (LlamaForm.keys, transformers.LlamaConfig().to_dict()),
        (BertForm.keys, transformers.BertConfig().to_dict()),
        (keys.GENERATION, transformers.GenerationConfig().to_dict()),
        (keys.SENTENCE_BERT, Transformer.config_keys),
        (keys.POOLING, [*Pooling.config_keys, *Pooling.config_key_renames]),
        (keys.NORMALIZE, Normalize.config_keys),
    ]
    own = set(inspect.signature(Transformer.__init__).parameters)
    known.append((keys.SENTENCE_BERT, own - {"self", "model_name_or_path", "backend"}))
    tokenizer = transformers.BertTokenizer()
    known.append((keys.TOKENIZER_CONFIG, tokenizer.init_kwargs))
    for table, names in known:
        assert [name for name in names if rule_of(table, name) is None] == []
    for table, group in (
        (keys.GGUF_GENERAL, gguf.Keys.General),
        (keys.GGUF_TOKENIZER, gguf.Keys.Tokenizer),
    ):
        names = [value for name, value in vars(group).items() if name.isupper()]
        assert [name for name in names if rule_of(table, name) is None] == []


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_each_model_key_of_gguf(architecture):
    form = {"llama": LlamaForm, "bert": BertForm}[architecture]
    for key, rule in form.gguf_keys.items():
        for value in rule.unless:
            assert list(keys.check(form.gguf_keys, {example(key): value}, "a file")) == []
        if rule.kind == "refused":
            with pytest.raises(LabError, match=f"{example(key)} is 7"):
                list(keys.check(form.gguf_keys, {example(key): 7}, "a file"))


def test_keys_of_a_gguf_file(tmp_path):
    """All together, through a file: what is refused ends it, what is unknown is said."""

    def said(add):
        write_gguf(tmp_path, add=add)
        return open_checkpoint(tmp_path / "model.gguf").warnings

    assert said(lambda writer: writer.add_name("Tiny")) == ()
    (warning,) = said(lambda writer: writer.add_uint32("llama.of_tomorrow", 1))
    assert "llama.of_tomorrow is not known here" in warning
    (warning,) = said(lambda writer: writer.add_string("tokenizer.chat_template.rag", "{{ x }}"))
    assert "tokenizer.chat_template.rag is '{{ x }}'" in warning
    for key, add in {
        "llama.logit_scale": lambda writer: writer.add_logit_scale(0.5),
        "llama.expert_count": lambda writer: writer.add_expert_count(8),
        "llama.attention.causal": lambda writer: writer.add_causal_attention(False),
        "llama.pooling_type": lambda writer: writer.add_pooling_type(gguf.PoolingType.LAST),
        "general.type": lambda writer: writer.add_type("adapter"),
    }.items():
        with pytest.raises(LabError, match=f"{key} is "):
            said(add)


def test_each_general_and_tokenizer_key_of_gguf(tmp_path):
    """Those that are harmless all at once; each of the others alone, through a file."""
    table = {**keys.GGUF_GENERAL, **keys.GGUF_TOKENIZER}

    def said(*names):
        add = [lambda writer, name=name: writer.add_string(example(name), "odd") for name in names]
        write_gguf(tmp_path, add=lambda writer: [put(writer) for put in add])
        return open_checkpoint(tmp_path / "model.gguf").warnings

    assert said(*(key for key, rule in table.items() if rule.kind == "harmless")) == ()
    for key, rule in table.items():
        if rule.kind == "noted":
            assert f"{example(key)} is 'odd'" in said(key)[0]
        elif rule.kind == "refused":
            with pytest.raises(LabError, match=f"{example(key)} is 'odd'"):
                said(key)


@pytest.mark.parametrize("key", ["peft_type", "r", "base_model_name_or_path", "of_tomorrow"])
def test_each_key_of_an_adapter_is_refused_with_it(key, embedder, tmp_path):
    folder = shutil.copytree(embedder, tmp_path / "embedder")
    tiny.write(folder, adapter_config={key: "odd"})
    with pytest.raises(LabError, match=r"holds an adapter .*adapter_config\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("key", ["quant_method", "bits", "of_tomorrow"])
def test_each_key_of_a_quantizer_is_left_out_with_its_file(key, embedder, tmp_path):
    folder = shutil.copytree(embedder, tmp_path / "embedder")
    tiny.write(folder, config={"quantization_config": {key: "odd"}}, quantize_config={key: "odd"})
    warnings = open_checkpoint(folder).warnings
    assert [warning.split(" is left out")[0] for warning in warnings] == [
        "config.json: quantization_config",
        "quantize_config.json",
    ]


# --- what the tables say of config.json is what transformers does ---

TYPED = {  # values that transformers takes for keys that are harmless
    "initializer_range": 0.5, "attention_dropout": 0.3, "use_cache": False, "pretraining_tp": 2,
    "output_hidden_states": True, "output_attentions": True, "return_dict": True,
    "dtype": "float32", "torch_dtype": "float32", "chunk_size_feed_forward": 2,
    "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.3,
    "problem_type": "regression", "transformers_version": "4.0.0", "label2id": {"a": 0, "b": 1},
    "attn_implementation": "eager", "_attn_implementation": "eager", "tie_word_embeddings": False,
    "id2label": {"0": "a", "1": "b"}, "num_labels": 2,
    "task_specific_params": {"a": {}}, "tie_last_hidden_states": True, "finetuning_task": "x",
}  # fmt: skip
NOT_FED = {"experts_implementation"}  # transformers checks it against its own list
FOLLOWED = {
    LlamaForm: {
        "vocab_size": 80, "hidden_size": 128, "intermediate_size": 40, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 4, "head_dim": 32,
        "max_position_embeddings": 32, "rms_norm_eps": 0.1, "attention_bias": True,
        "mlp_bias": True, "tie_word_embeddings": True, "hidden_act": "swish",
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
    },
    BertForm: {
        "vocab_size": 140, "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 32, "type_vocab_size": 3,
        "layer_norm_eps": 0.1,
    },
}  # fmt: skip
# of these another value is fed elsewhere: names, ids of tokens, labels, the older keys of rope
ELSEWHERE = {
    "architectures", "model_type", "tokenizer_class", "quantization_config", "bos_token_id",
    "eos_token_id", "pad_token_id", "rope_theta", "rope_scaling",
    "original_max_position_embeddings", "num_labels", "id2label",
}  # fmt: skip
IDS = np.array([[7, 11, 3, 60, 60, 5, 9, 2]])


def theirs(folder, form):
    kind = transformers.AutoModelForCausalLM if form is LlamaForm else transformers.AutoModel
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        return model(torch.tensor(IDS))[0].numpy()  # logits, or hidden states


def ours(folder, form, out):
    artifact = convert(open_checkpoint(folder), Scheme.parse("fp32"), out)
    if form is LlamaForm:
        return Decoder(artifact).logits(IDS)
    inputs = {
        "input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)
    }  # fmt: skip
    return Embedder(artifact).session.run(["last_hidden_state"], inputs)[0]


def make(form, folder, **config):
    return (tiny.llama if form is LlamaForm else tiny.bert)(folder, **config)


@pytest.mark.slow
@pytest.mark.parametrize("form", [LlamaForm, BertForm])
def test_each_key_that_is_followed(form, tmp_path):
    named = {key for key, rule in form.keys.items() if rule.kind == "followed"}
    assert named - ELSEWHERE <= set(FOLLOWED[form])
    for key, value in FOLLOWED[form].items():
        folder = make(form, tmp_path / key, **{key: value})
        expected = theirs(folder, form)
        np.testing.assert_allclose(ours(folder, form, tmp_path / f"{key}-out"), expected, atol=2e-5)
        assert open_checkpoint(folder).warnings == () or form is LlamaForm  # it has no tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("form", [LlamaForm, BertForm])
def test_what_is_harmless_changes_nothing(form, tmp_path):
    """All such keys at once, in transformers and here."""
    folder = make(form, tmp_path / "model")
    expected = theirs(folder, form)
    harmless = {key for key, rule in form.keys.items() if rule.kind == "harmless"} - NOT_FED
    tiny.write(folder, config={key: TYPED.get(key, "odd") for key in harmless})
    np.testing.assert_allclose(theirs(folder, form), expected, atol=2e-6)  # sums in parts
    np.testing.assert_allclose(ours(folder, form, tmp_path / "out"), expected, atol=2e-5)
    said = list(remarks(form.keys, open_checkpoint(folder).config, "config.json"))
    assert said == []


def test_warnings_reach_the_manifest_and_the_report(tmp_path):
    """A manifest has no key for them where there are none."""
    folder = tiny.bert(tmp_path / "bert")
    plain = convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "plain")
    assert '"warnings"' not in (plain.folder / "manifest.json").read_text()
    tiny.write(folder, config={"of_tomorrow": 1})
    artifact = convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "said")
    (warning,) = json.loads((artifact.folder / "manifest.json").read_text())["warnings"]
    assert "of_tomorrow" in warning
    found = result_of(
        find_variant("all_minilm_l6_v2"),
        Fetched(folder, "local", "", None),
        {"int8-rtn": artifact},
        {"int8-rtn": Quality({}, {}, {})},
        {"int8-rtn": Judgement(Verdict.PASS, ("all is well",))},
        {"int8-rtn": Speed({}, {})},
        tmp_path,
    )
    assert found.schemes["int8-rtn"].reasons == [warning, "all is well"]
