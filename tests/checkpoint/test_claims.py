"""What config.json and the names of tensors claim, where the weights say otherwise.

What is right is what transformers computes from the same folder.
"""

import json
import os

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from support import tiny_folders as tiny
from support.tiny_checkpoints import CONFIG, TENSORS, write_as_in_the_hubs_cache, write_gguf

from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import CheckpointError, claims, open_checkpoint
from llmkg_lab.conversion import to_gguf
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.reference.outputs import decoder_reference
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.scheme import Scheme

IDS = np.array([[7, 11, 3, 20, 20, 5, 9, 2]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


def logits_of_transformers(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor(IDS)).logits.numpy()


def logits_of(checkpoint, out):
    return Decoder(convert(checkpoint, Scheme.parse("fp32"), out)).logits(IDS)


def check_against_transformers(folder, out):
    expected = logits_of_transformers(folder)
    np.testing.assert_allclose(logits_of(open_checkpoint(folder), out), expected, atol=2e-5)


def with_another_head(tensors):
    return tensors | {"lm_head.weight": torch.randn(96, 64)}


def save_as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("pickled", [False, True])
def test_a_head_stored_beside_the_table_it_is_tied_to(pickled, tmp_path):
    """transformers compares the two, and ties them only where they are equal."""
    folder = tiny.llama(tmp_path / "llama", tie_word_embeddings=True)
    tied = logits_of_transformers(folder)
    tiny.change_weights(folder, with_another_head)
    if pickled:
        save_as_pickle(folder)
    expected = logits_of_transformers(folder)
    assert np.abs(expected - tied).max() > 1
    checkpoint = open_checkpoint(folder)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "own"), expected, atol=2e-5)
    reference = decoder_reference(checkpoint, IDS, [[1]], 1)
    np.testing.assert_allclose(reference.logits(0), expected[0], atol=2e-5)
    assert any("another head is stored" in warning for warning in checkpoint.warnings)
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    exported = to_gguf.export(checkpoint, "F32", tmp_path / "gguf")
    again = open_checkpoint(exported.model_path)
    np.testing.assert_allclose(logits_of(again, tmp_path / "again"), expected, atol=2e-5)


def test_a_head_that_is_the_table_is_dropped(tmp_path):
    folder = tiny.llama(tmp_path / "llama", tie_word_embeddings=True)
    before = convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "before")

    def copied(tensors):
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}

    tiny.change_weights(folder, copied)
    check_against_transformers(folder, tmp_path / "fp32")
    after = convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "after")
    for name in ("onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data", "config.json"):
        if (before.folder / name).exists():
            assert (before.folder / name).read_bytes() == (after.folder / name).read_bytes()
    assert before.manifest.parameters == after.manifest.parameters


def test_of_a_tied_pair_the_head_alone_may_be_stored(tmp_path):
    folder = tiny.llama(tmp_path / "llama", tie_word_embeddings=True)
    tiny.change_weights(
        folder,
        lambda tensors: {
            "lm_head.weight" if name == "model.embed_tokens.weight" else name: tensor
            for name, tensor in tensors.items()
        },
    )
    check_against_transformers(folder, tmp_path / "out")


@pytest.mark.parametrize("kind", [transformers.LlamaModel, transformers.LlamaForCausalLM])
def test_a_llama_without_its_prefix(kind, tmp_path):
    """As a bare LlamaModel is saved; its class may have been corrected in config.json."""
    folder = tiny.llama(tmp_path / "llama", transformers.LlamaModel, tie_word_embeddings=True)
    tiny.write(folder, config={"architectures": [kind.__name__]})
    assert "embed_tokens.weight" in load_file(folder / "model.safetensors")
    check_against_transformers(folder, tmp_path / "out")


def test_a_bare_llama_that_is_not_tied_lacks_its_head(tmp_path):
    folder = tiny.llama(tmp_path / "llama", transformers.LlamaModel)
    with pytest.raises(CheckpointError, match=r"lacks the tensor lm_head\.weight"):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "out")


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_in_double_precision(pickled, tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    tiny.change_weights(folder, lambda tensors: {k: v.double() for k, v in tensors.items()})
    if pickled:
        save_as_pickle(folder)
    check_against_transformers(folder, tmp_path / "out")


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def test_a_quantization_config_left_beside_plain_weights(tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    expected = logits_of_transformers(folder)
    tiny.write(folder, config={"quantization_config": GPTQ})
    checkpoint = open_checkpoint(folder)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "out"), expected, atol=2e-5)
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    assert any("quantization_config is left out" in warning for warning in checkpoint.warnings)


@pytest.mark.parametrize("name", claims.QUANTIZERS)
def test_a_quantizers_file_left_beside_plain_weights(name, tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    expected = logits_of_transformers(folder)
    (folder / name).write_text(json.dumps(GPTQ))
    checkpoint = open_checkpoint(folder)
    np.testing.assert_allclose(logits_of(checkpoint, tmp_path / "out"), expected, atol=2e-5)
    assert any(f"{name} is left out" in warning for warning in checkpoint.warnings)
    (folder / name).write_text("[]")
    with pytest.raises(CheckpointError, match=f"{name} holds a list"):
        _ = open_checkpoint(folder).warnings


def as_gptq(name, tensor):
    module = name.removesuffix(".weight")
    return {f"{module}.qweight": torch.zeros(8, 8, dtype=torch.int32), f"{module}.scales": tensor}


def as_bitsandbytes(name, tensor):
    return {name: torch.zeros(8, 1, dtype=torch.uint8), f"{name}.absmax": torch.ones(8)}


def as_fp8(name, tensor):
    return {name: tensor.to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(1, 1)}


QUANTIZED = {"gptq": as_gptq, "awq": as_gptq, "bitsandbytes": as_bitsandbytes, "fp8": as_fp8}


@pytest.mark.parametrize("method", QUANTIZED)
def test_quantized_weights_are_refused_by_their_method(method, tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    tiny.change_weights(
        folder,
        lambda tensors: {
            stored: value
            for name, tensor in tensors.items()
            for stored, value in (
                QUANTIZED[method](name, tensor) if "proj" in name else {name: tensor}
            ).items()
        },
    )
    tiny.write(folder, config={"quantization_config": {**GPTQ, "quant_method": method}})
    with pytest.raises(CheckpointError, match=f"quantized by {method} .*quantization_config"):
        convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    for name, by in claims.QUANTIZERS.items():  # of older tools
        (folder / name).write_text(json.dumps({"bits": 4, "group_size": 128}))
        with pytest.raises(CheckpointError, match=rf"quantized by {by} \({name}\); .* as floats"):
            convert(open_checkpoint(folder), Scheme.parse("int8"), tmp_path / "out")
        (folder / name).unlink()
    with pytest.raises(LabError, match=r"quantized: it holds \S+\.\w+"):
        convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "out")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "0.auto_model."])
@pytest.mark.parametrize("make", [tiny.llama, tiny.bert])
def test_names_from_inside_a_wrapper_are_shown(make, prefix, tmp_path):
    folder = make(tmp_path / "model")
    tiny.change_weights(folder, lambda tensors: {prefix + k: v for k, v in tensors.items()})
    with pytest.raises(CheckpointError, match=rf"but it has {prefix}.*\n.*without '{prefix}"):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "out")


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_is_refused_by_name(alone, tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    tiny.write(folder, adapter_config={"peft_type": "LORA", "base_model_name_or_path": "a/base"})
    if alone:
        for path in folder.glob("*"):
            if path.name != "adapter_config.json":
                path.unlink()
    with pytest.raises(CheckpointError, match=r"adapter of a/base \(adapter_config\.json\)"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "content", ["[1, 2]", "{", '{"eos_token_id": "two"}', '{"eos_token_id": [2, null]}', "7"]
)
def test_a_damaged_generation_config(content, tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        convert(open_checkpoint(folder), Scheme.parse("fp32"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [tiny.llama, tiny.bert])
def test_a_weight_that_float16_cannot_hold(make, tmp_path):
    """Refused by its name, as the GGUF export refuses it; wider schemes hold it."""
    folder = make(tmp_path / "model")
    wide = {tiny.llama: "down_proj.weight", tiny.bert: "output.dense.weight"}[make]

    def one_large(tensors):
        name = next(name for name in tensors if name.endswith(wide))
        tensors[name][3, 5] = 1e5
        return tensors

    tiny.change_weights(folder, one_large)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(LabError, match=rf"{wide} holds values beyond float16's range"):
        convert(checkpoint, Scheme.parse("fp16"), tmp_path / "fp16")
    assert not (tmp_path / "fp16").exists()
    for scheme in ("fp32", "int8-rtn"):
        convert(checkpoint, Scheme.parse(scheme), tmp_path / scheme)
        text = (tmp_path / scheme / "manifest.json").read_text()
        json.loads(text, parse_constant=pytest.fail)  # called for NaN and infinities


# --- GGUF ---


def with_rope(kind, **keys):
    def add(writer):
        writer.add_tokenizer_model("no_vocab")
        if kind is not None:
            writer.add_string("llama.rope.scaling.type", kind)
        for key, value in keys.items():
            writer.add_float32(f"llama.rope.{key.replace('__', '.')}", value)

    return add


@pytest.mark.parametrize(
    ("kind", "keys", "factor"),
    [
        (None, {}, None),
        (None, {"scale_linear": 4.0}, 4.0),
        (None, {"scaling__factor": 4.0}, 4.0),
        ("linear", {"scaling__factor": 4.0}, 4.0),
        ("linear", {"scale_linear": 4.0}, 4.0),
        ("linear", {"scaling__factor": 4.0, "scale_linear": 2.0}, 4.0),  # the newer key counts
        ("linear", {"scaling__factor": 0.0, "scale_linear": 2.0}, None),  # 0: not scaled
        ("none", {"scaling__factor": 4.0}, None),
        ("linear", {}, None),
    ],
)
def test_rotary_scaling_as_llama_cpp_reads_it(kind, keys, factor, tmp_path):
    write_gguf(tmp_path, add=with_rope(kind, **keys))
    scaling = {"rope_type": "linear", "factor": factor} if factor else None
    config = transformers.LlamaConfig(**CONFIG | {"rope_scaling": scaling})
    model = transformers.LlamaForCausalLM(config).eval()
    weights = {name: torch.tensor(value) for name, value in TENSORS.items()}
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    with torch.inference_mode():
        expected = model(torch.tensor(IDS)).logits.numpy()
    logits = logits_of(open_checkpoint(tmp_path / "model.gguf"), tmp_path / "out")
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["yarn", "longrope", "dynamic", "llama3"])
def test_other_rotary_scalings_of_gguf_are_refused(kind, tmp_path):
    write_gguf(tmp_path, add=with_rope(kind, scaling__factor=4.0))
    with pytest.raises(LabError, match=f"rotary embedding of type '{kind}'"):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_turns_end_ends_a_text(tmp_path):
    """llama.cpp stops at the ids of eos, eot and eom alike."""

    def add(writer):
        writer.add_eos_token_id(2)
        writer.add_eot_token_id(5)
        writer.add_eom_token_id(2)

    write_gguf(tmp_path, add=lambda writer: (add(writer), writer.add_tokenizer_model("no_vocab")))
    assert ends_of(tmp_path) == [2, 5]
    artifact = to_gguf.export(open_checkpoint(tmp_path), "F32", tmp_path / "out")
    assert ends_of(artifact.model_path) == [2, 5]


def ends_of(path):
    return json.loads(open_checkpoint(path).sidecars()["generation_config.json"])["eos_token_id"]


@pytest.mark.parametrize("ends", [[2], [5], [2, 5], [5, 2, 7], [7, 5, 2]])
def test_all_ends_of_a_text_survive_an_export(ends, tmp_path):
    """By generation_config.json, or where that says nothing by config.json."""
    folder = tiny.llama(tmp_path / "llama")
    tiny.write(folder, config={"eos_token_id": ends}, generation_config={"eos_token_id": None})
    for name in ("generation_config", "config"):
        tiny.write(folder, **{name: {"eos_token_id": ends}})
        artifact = to_gguf.export(open_checkpoint(folder), "F32", tmp_path / f"from {name}")
        found = ends_of(artifact.model_path)
        assert found == (ends if len(ends) > 1 else ends[0])
        (folder / "generation_config.json").unlink(missing_ok=True)


def test_ends_that_gguf_cannot_hold_are_refused(tmp_path):
    folder = tiny.llama(tmp_path / "llama")
    for ends, message in {
        (2, 3, 4, 5): "4 tokens beside EOS end a text",
        (96,): "id 96 ends",
    }.items():
        tiny.write(folder, generation_config={"eos_token_id": list(ends)})
        with pytest.raises(LabError, match=message):
            to_gguf.export(open_checkpoint(folder), "F32", tmp_path / "out")


# --- files that lie elsewhere ---


def link_out(folder, name, secret):
    target = folder.parent / "elsewhere.json"
    target.write_text(secret)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


@pytest.mark.parametrize(
    "name",
    [
        *("special_tokens_map.json", "config.json", "tokenizer.json", "tokenizer_config.json"),
        *("generation_config.json", "chat_template.jinja", "vocab.txt", "tokenizer.model"),
        *("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "merges.txt"),
        *("config_sentence_transformers.json", "added_tokens.json", "quantize_config.json"),
    ],
)
def test_a_link_out_of_the_folder_is_not_followed(name, tmp_path):
    """Whoever made the folder would choose which of the reader's files an artifact publishes."""
    folder = tiny.embedder(tmp_path / "model")
    link_out(folder, name, '{"a_secret": "of mine"}')
    with pytest.raises(CheckpointError, match=r"is a link to .*elsewhere\.json, outside"):
        convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_module_folder_may_not_be_a_link_out_either(tmp_path):
    folder = tiny.embedder(tmp_path / "model")
    (folder / "1_Pooling").rename(tmp_path / "pooling")
    (folder / "1_Pooling").symlink_to(tmp_path / "pooling")
    with pytest.raises(CheckpointError, match=r"1_Pooling/config\.json is a link to"):
        convert(open_checkpoint(folder), Scheme.parse("int8-rtn"), tmp_path / "out")


def test_links_within_a_folder_and_into_the_hubs_cache_are_followed(tmp_path):
    snapshot = write_as_in_the_hubs_cache(tmp_path / "models--a--b")
    for name in ("config.json",):
        blob = tmp_path / "models--a--b" / "blobs" / name.encode().hex()
        (snapshot / name).rename(blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    assert open_checkpoint(snapshot).config["hidden_size"] == CONFIG["hidden_size"]
    folder = tiny.bert(tmp_path / "bert")
    (folder / "tokenizer_config.json").rename(folder / "real.json")
    (folder / "tokenizer_config.json").symlink_to("real.json")
    assert b"[CLS]" in open_checkpoint(folder).sidecars()["tokenizer_config.json"]


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path):
    (warning,) = open_checkpoint(tiny.llama(tmp_path / "llama")).warnings
    assert "holds no tokenizer" in warning
