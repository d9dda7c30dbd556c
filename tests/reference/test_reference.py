"""The reference: what opens the original, what our own reader fills instead, and the cache."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from scipy.stats import spearmanr
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from llmkg_lab.checkpoint import CheckpointError, open_checkpoint
from llmkg_lab.data.texts import TextError, load_pairs
from llmkg_lab.reference import load
from llmkg_lab.reference.filled import load_model
from llmkg_lab.reference.outputs import decoder_reference, embedder_reference
from llmkg_lab.reference.tokens import OriginalTokenizer

WINDOWS = np.random.default_rng(0).integers(0, 131, (2, 40))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


def save_llama(folder, **options):
    """A random Llama with what small ones may lack: grouped queries, rope scaling, biases."""
    config = LlamaConfig(
        vocab_size=131,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **options,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return folder


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


LLAMAS = pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
        {"head_dim": 16, "rope_parameters": LLAMA3_ROPE},
    ],
    ids=["tied", "untied with biases", "wide heads, scaled rope"],
)


@pytest.mark.slow
@LLAMAS
def test_a_filled_llama_is_the_one_that_from_pretrained_loads(options, tmp_path):
    """And the reference is that one."""
    folder = save_llama(tmp_path / "llama", **options)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ours = load_model(open_checkpoint(folder))
    for (name, theirs), (same, mine) in zip(
        plain.named_buffers(), ours.named_buffers(), strict=True
    ):
        assert name == same
        assert torch.equal(theirs, mine)
    with torch.inference_mode():
        ids = torch.tensor(WINDOWS)
        assert torch.equal(plain(ids).logits, ours(ids).logits)
        expected = plain(ids).logits.numpy()
    reference = decoder_reference(open_checkpoint(folder), WINDOWS, [[5, 6, 7]], 12)
    for i in range(len(WINDOWS)):
        np.testing.assert_allclose(reference.logits(i), expected[i], rtol=0, atol=1e-4)
    assert reference.judge == (
        f"LlamaForCausalLM of transformers {transformers.__version__}, torch "
        f"{torch.__version__}, in float32, from llama"
    )


@pytest.mark.slow
@LLAMAS
def test_layer_by_layer_computes_the_same(options, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(save_llama(tmp_path / "llama", **options))
    prompts = [[5, 6, 7], [1, 99]]
    whole = decoder_reference(checkpoint, WINDOWS, prompts, 12)
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "another"))
    decoder = load.decoder
    monkeypatch.setattr(load, "decoder", lambda checkpoint: decoder(checkpoint, room=1))
    layers = decoder_reference(checkpoint, WINDOWS, prompts, 12)
    np.testing.assert_allclose(layers.hidden, whole.hidden, rtol=0, atol=1e-5)
    assert layers.continuations == whole.continuations
    np.testing.assert_array_equal(layers._head, whole._head)
    assert "by this project's own reader, for its weights do not fit in memory" in layers.judge
    model, _ = load.decoder(checkpoint)
    empty = {name for name, weight in model.named_parameters() if weight.device.type == "meta"}
    assert empty == {name for name, _ in model.named_parameters() if ".layers." in name}


def test_a_head_that_the_reader_takes_for_another_gives_no_logits(tmp_path):
    folder = save_llama(tmp_path / "llama")
    reference = decoder_reference(open_checkpoint(folder), WINDOWS, [], 0)
    reference.checkpoint = change(folder, lambda t: t["lm_head.weight"].__imul__(2))
    with pytest.raises(CheckpointError, match=r"lm_head.weight is not what the judge multiplies"):
        reference.logits(0)


def test_logits_that_are_no_product_with_the_head_are_refused(tmp_path, monkeypatch):
    checkpoint = open_checkpoint(save_llama(tmp_path / "llama"))
    model, judge = load.decoder(checkpoint)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: 2 * logits)
    monkeypatch.setattr(load, "decoder", lambda checkpoint: (model, judge))
    with pytest.raises(CheckpointError, match="does more with hidden states than a product"):
        decoder_reference(checkpoint, WINDOWS, [], 0)


@pytest.mark.slow
def test_continuations_are_greedy_and_pass_the_end_of_text(tmp_path):
    folder = save_llama(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def expected(prompt, count):
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(count):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]

    prompts = [[5, 6, 7], [1, 99]]
    wanted = [expected(prompt, 12) for prompt in prompts]
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = wanted[0][3]  # a model that would stop after four tokens
    config["dtype"] = "bfloat16"  # and that was trained in bfloat16: the reference is float32
    (folder / "config.json").write_text(json.dumps(config))
    reference = decoder_reference(open_checkpoint(folder), WINDOWS, prompts, 12)
    assert reference.continuations == wanted


def change(folder, edit):
    """Rewrite the folder's weights through ``edit``, a function of the tensors by name."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return open_checkpoint(folder)


MISSING = "lacks the tensor model.norm.weight"


@pytest.mark.parametrize(
    ("edit", "filled", "opened"),
    [
        (lambda t: t.pop("model.norm.weight"), MISSING, MISSING),
        (lambda t: t.update(extra=np.ones(3, np.float32)), "extra has no place", None),
        (
            lambda t: t.update({"model.norm.weight": np.ones(31, np.float32)}),
            r"shape \(31,\)",
            "cannot open it",
        ),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_weights_that_do_not_fill_the_model_are_refused(edit, filled, opened, tmp_path):
    """Those that are too many are left to the tool, which computes without them."""
    checkpoint = change(save_llama(tmp_path / "llama"), edit)
    with pytest.raises(CheckpointError, match=filled):
        load_model(checkpoint)
    if opened:
        with pytest.raises(CheckpointError, match=opened):
            decoder_reference(checkpoint, WINDOWS, [], 0)
        assert not (tmp_path / "cache").exists()


def test_an_encoder_under_a_head_is_found_by_its_prefix(tmp_path):
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    under_head = BertForMaskedLM(config).eval()
    under_head.save_pretrained(tmp_path / "bert")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        expected = under_head.bert(ids).last_hidden_state
        states = load_model(open_checkpoint(tmp_path / "bert"))(ids).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-6)


def test_embeddings_are_the_normalized_mean_over_tokens(minilm_folder):
    texts = [
        "A graph.",
        "Facts are stored as triples of subject, relation and object.",
        "",
        "Short text",
    ]
    reference = embedder_reference(open_checkpoint(minilm_folder), texts)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder)
    model = AutoModel.from_pretrained(minilm_folder).eval()
    for text, embedding in zip(texts, reference.embeddings, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            states = model(ids).last_hidden_state[0].numpy()  # (tokens, hidden), no padding
        mean = states.mean(0)
        np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), rtol=0, atol=1e-6)


def test_all_minilm_reaches_its_published_correlation(minilm_folder):
    """all-MiniLM-L6-v2 on STS-B test: Spearman 82.03 on the MTEB leaderboard."""
    try:
        pairs = load_pairs(["stsb"])
    except TextError as error:
        pytest.skip(error.message)
    reference = embedder_reference(open_checkpoint(minilm_folder), [*pairs.left, *pairs.right])
    left, right = np.split(reference.embeddings, 2)
    measured = spearmanr((left * right).sum(1), pairs.scores).statistic
    assert measured == pytest.approx(0.8203, abs=2e-4)


CACHED = """
import sys
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.reference.outputs import decoder_reference, embedder_reference
from llmkg_lab.reference.tokens import OriginalTokenizer
import numpy as np
windows = np.random.default_rng(0).integers(0, 131, (2, 40))
reference = decoder_reference(open_checkpoint(sys.argv[1]), windows, [[5, 6]], 4)
print(reference.continuations[0], reference.logits(0).shape)
encoder = open_checkpoint(sys.argv[2])
print(embedder_reference(encoder, ["A graph."]).tokens[0].ids)
print(OriginalTokenizer(encoder).encode("A graph."))
print(sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""


def test_cached_outputs_need_no_torch(minilm_folder, tmp_path):
    folder = save_llama(tmp_path / "llama")
    reference = decoder_reference(open_checkpoint(folder), WINDOWS, [[5, 6]], 4)
    encoder = open_checkpoint(minilm_folder)
    ids = embedder_reference(encoder, ["A graph."]).tokens[0].ids
    assert OriginalTokenizer(encoder).encode("A graph.") == ids
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", CACHED, folder, minilm_folder],
        env=env,
        capture_output=True,
        text=True,
    )
    expected = [f"{reference.continuations[0]} (40, 131)", str(ids), str(ids), "[]"]
    assert run.stdout.splitlines() == expected, run.stderr


def test_other_weights_are_another_entry(tmp_path):
    folder = save_llama(tmp_path / "llama")
    before = decoder_reference(open_checkpoint(folder), WINDOWS, [], 0)
    checkpoint = change(folder, lambda t: t["model.norm.weight"].__imul__(2))
    after = decoder_reference(checkpoint, WINDOWS, [], 0)
    np.testing.assert_allclose(after.hidden, 2 * before.hidden, rtol=1e-5)
    other = decoder_reference(checkpoint, WINDOWS[:, ::-1].copy(), [], 0)
    assert not np.allclose(other.hidden, after.hidden)
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 3


def test_other_files_around_the_weights_are_another_entry(minilm_folder, tmp_path):
    folder = tmp_path / "minilm"
    shutil.copytree(minilm_folder, folder)
    before = embedder_reference(open_checkpoint(folder), ["A Graph."])
    assert len(before.tokens[0].ids) > 2
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"word_embedding_dimension": 384, "pooling_mode": "cls"}))
    first = embedder_reference(open_checkpoint(folder), ["A Graph."])
    assert first.tokens == before.tokens
    assert (first.embeddings * before.embeddings).sum() < 0.99
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 3}')
    cut = embedder_reference(open_checkpoint(folder), ["A Graph."])
    assert len(cut.tokens[0].ids) == 3
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 3
