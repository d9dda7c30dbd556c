"""Small tokenizers of the kinds that GGUF can hold, and changes that it cannot."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import gguf
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from llmkg_lab.checkpoint import spm
from llmkg_lab.conversion.gguf_tokenizer import add_tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog 12 times", "don't stop  the\nlazy Dogs"] * 9
TEXTS = [
    "the quick brown fox",
    "  the lazy dog's  123 times\n\n\tover",
    "don't jump, naïve café; 日本 🙂",
    "<s>the</s> dog<s> fox<tool>lazy <tool> dog",
    "",
    " ",
]
PARTS = [
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "the", " dog", "s", "'s", "don't", "WE'LL", "12"),
    *("3.14", "x²½", "naïve", "Café", "日本語", "🙂", "👩\u200d👧", "e\u0301", "İ", "ß", "ﬁ"),
    *("한국어", "हिन्दी", "العربية", "<s>", "</s>", "<tool>", "<unk>", "▁", "##s", "[CLS]"),
    *("[MASK]", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "\u00a0", "\u3000", "\u200b"),
    *("\ufeff", "\u2028", "\x1c", "\x00", "\ufffd", "_", "...", "a" * 50),
]
BLOCKS = [(32, 127), (0xA0, 0x250), (0x300, 0x530), (0x2000, 0x2C00), (0x4E00, 0x4F00),
          (0x1F300, 0x1F700)]  # fmt: skip
NEXT_LINE = "\x85"  # a control character that llama.cpp's WordPiece splits at, and BERT leaves out
ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT_ENDS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]",
             "pad_token": "[PAD]"}  # fmt: skip


def random_texts(count, seed=0):
    """Words, special tokens, spaces of all kinds and other characters, in any order."""
    rng = random.Random(seed)

    def part():
        return rng.choice(PARTS) if rng.random() < 0.7 else chr(rng.randrange(*rng.choice(BLOCKS)))

    return ["".join(part() for _ in range(rng.randrange(1, 12))) for _ in range(count)]


@dataclass
class Case:
    """A tokenizer, and for one that is refused: by which words, and a text that shows why."""

    tokenizer: Tokenizer
    config: dict = field(default_factory=lambda: dict(ENDS))
    refusal: str = ""
    witness: str = ""
    path: Path | None = None  # of a file that holds it

    @property
    def architecture(self):
        return "bert" if isinstance(self.tokenizer.model, models.WordPiece) else "llama"

    def sidecars(self):
        return {
            "tokenizer.json": self.tokenizer.to_str().encode(),
            "tokenizer_config.json": json.dumps(self.config).encode(),
        }

    def write(self, path, ends=()):
        """A GGUF file with nothing but the tokenizer; ends: the ids at which a text ends."""
        writer = gguf.GGUFWriter(path, self.architecture)
        add_tokenizer(writer, self.sidecars(), self.tokenizer.get_vocab_size() + 3, ends)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def byte_level(digits=False, **options):
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alone = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([alone, level]) if digits else level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>", "<unk>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    for name, value in options.items():
        model = tokenizer.model
        setattr(model, name, value)
        tokenizer.model = model
    return tokenizer


def llama(prefix=True, words=("the", "qu", "▁the", "▁do", "lazy", "azy", "la", "zy", "▁▁", "th")):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    letters = sorted({*"▁abcdefghijklmnopqrstuvwxyz'," + "".join(words)})
    tokens += [letter for letter in letters if letter not in tokens]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    tokenizer = spm.bpe(tokens, [-float(i) for i in range(len(tokens))], kinds, prefix=prefix)
    spm.add_ends(tokenizer, ["<s>"], [])
    return tokenizer


def metaspace(scheme, split=False):
    """As transformers' LlamaTokenizer states it."""
    tokenizer = llama()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    return tokenizer


def word_piece(words=(), **options):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, "the", "qu", "##ick", "dog", "##s", "naive", "'", "don", "t", "lazy", "1",
              "##2", "##3", ",", "cafe", "日", "fox", "over", *words]  # fmt: skip
    model = models.WordPiece(
        {p: i for i, p in enumerate(pieces)}, **{"unk_token": "[UNK]", **options}
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(special)
    return tokenizer


def with_tokens(tokenizer, *tokens, **flags):
    tokenizer.add_tokens([AddedToken(token, **flags) for token in tokens])
    return tokenizer


def around(tokenizer, single):
    special = [(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>", "<unk>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return tokenizer


def changed(tokenizer, part, value):
    setattr(tokenizer, part, value)
    return tokenizer


def exact():
    """Tokenizers by name that llama.cpp runs as they are."""
    return {
        "bytes": Case(byte_level()),
        "bytes, digits alone": Case(byte_level(digits=True)),
        "bytes, ends": Case(around(byte_level(), "<s> $A </s>")),
        "bytes, added": Case(with_tokens(byte_level(), "<tool>", "  ", "    ", normalized=False)),
        "Llama": Case(llama()),
        "Llama, no space before": Case(llama(prefix=False)),
        "Llama, no space before, newer": Case(metaspace("never")),
        "Llama, added": Case(with_tokens(llama(), "<tool>", normalized=False)),
        "Llama, no BOS": Case(around(llama(), "$A")),
        "WordPiece": Case(word_piece(), BERT_ENDS),
    }


def refused():
    """Tokenizers by name that it would run otherwise."""
    flagged = {
        flag: Case(
            with_tokens(byte_level(), "<tool>", **{"normalized": False, flag: True}),
            refusal=f"'<tool>' has the flag {flag}",
            witness="the  <tool>  dog<tool>s",
        )
        for flag in ("lstrip", "rstrip", "single_word")
    }
    digits_first = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    cut = llama()
    made = [tuple(pair) for pair in _merges(cut)]
    fewer = models.BPE(
        cut.get_vocab(False), [pair for pair in made if pair != ("la", "zy")],
        unk_token="<unk>", fuse_unk=True, byte_fallback=True,
    )  # fmt: skip
    return flagged | {
        "ignore_merges": Case(
            _of_whole_words(), refusal="ignore_merges", witness="zebras the zebras"
        ),
        "suffix": Case(
            byte_level(end_of_word_suffix="</w>"), refusal="end_of_word_suffix", witness="the"),
        "normalized": Case(
            with_tokens(llama(), "<tool>", normalized=True),
            refusal="'<tool>' is looked for in normalized text", witness="dog<tool>s"),
        "overlapping": Case(
            with_tokens(byte_level(), "the la", "lazy dog", normalized=False),
            refusal="'the la' and 'lazy dog' may overlap", witness="the lazy dog"),
        "special tokens apart": Case(
            changed(byte_level(), "encode_special_tokens", True),
            ENDS | {"split_special_tokens": True}, "split_special_tokens", "<s>"),
        "digits in groups": Case(
            changed(byte_level(), "pre_tokenizer", digits_first), refusal="in its own way",
            witness="fox 12 times"),
        "space before": Case(
            changed(byte_level(), "pre_tokenizer", pre_tokenizers.ByteLevel()),
            refusal="in its own way", witness="the"),
        "normalizer": Case(
            changed(byte_level(), "normalizer", normalizers.Lowercase()), refusal="in its own way",
            witness="The"),
        "unknown bytes": Case(_without_bytes(), refusal="an unknown token for 1 of the 256 bytes",
                              witness="naïve"),
        "other ends": Case(around(byte_level(), "<unk> $A"), refusal="anything but BOS and EOS",
                           witness="the"),
        "two at the start": Case(around(byte_level(), "<s> <s> $A"),
                                 refusal="anything but BOS and EOS", witness="the"),
        "no end": Case(byte_level(), {"bos_token": "<s>"}, refusal="names no end of text"),
        "split at spaces": Case(
            metaspace("always", split=True), refusal="steps Metaspace", witness="the"),
        "lower case": Case(
            changed(llama(), "normalizer", normalizers.Lowercase()), refusal="steps Lowercase",
            witness="The"),
        "fewer merges": Case(changed(cut, "model", fewer), refusal="other merges", witness="lazy"),
        "merges apart": Case(
            _merged_apart(), refusal="do not follow one another", witness="jvwx"),
        "missing bytes": Case(_without_byte(), refusal="lacks tokens for some", witness="🙂"),
        "Unigram": Case(  # which no file is written of, so none can be forced
            Tokenizer(models.Unigram([("<unk>", 0.0)], 0)), refusal="kind Unigram"),
        "cased": Case(
            changed(word_piece(), "normalizer", normalizers.BertNormalizer(lowercase=False)),
            BERT_ENDS, "keeps upper case", "The dog"),
        "accents": Case(
            changed(word_piece(), "normalizer", normalizers.BertNormalizer(strip_accents=False)),
            BERT_ENDS, "keeps upper case, accents", "café"),
        "Chinese in a row": Case(
            changed(word_piece(), "normalizer",
                    normalizers.BertNormalizer(handle_chinese_chars=False)),
            BERT_ENDS, "other marks", "日日"),
        "split in its own way": Case(
            changed(word_piece(), "pre_tokenizer", pre_tokenizers.WhitespaceSplit()),
            BERT_ENDS, "splits texts in its own way", "the,dog"),
        "another mark": Case(
            word_piece(continuing_subword_prefix="@@"), BERT_ENDS, "mark the inside", "dogs"),
        "another frame": Case(
            changed(word_piece(), "post_processor", None), BERT_ENDS, "anything but [CLS]", "dog"),
        "spelled alike": Case(
            word_piece(["[x]", "##[x]"]), BERT_ENDS, "GGUF spells alike", "[x]"),
    }  # fmt: skip


def _merges(tokenizer):
    return json.loads(tokenizer.to_str())["model"]["merges"]


def _of_whole_words():
    tokenizer = byte_level()
    vocabulary = tokenizer.get_vocab(False)
    vocabulary["zebras"] = len(vocabulary)
    merges = [tuple(pair) for pair in _merges(tokenizer)]
    tokenizer.model = models.BPE(vocabulary, merges, ignore_merges=True)
    return tokenizer


def _without_bytes():
    tokenizer = byte_level()
    vocabulary = tokenizer.get_vocab(False)
    vocabulary["unused"] = vocabulary.pop("Ã")  # the first byte of ï
    merges = [tuple(pair) for pair in _merges(tokenizer)]
    tokenizer.model = models.BPE(vocabulary, merges, unk_token="<unk>")
    return tokenizer


def _merged_apart():
    """j and vw are joined later than vw and x, though another way to their token comes first."""
    tokenizer = llama(words=("vw", "jv", "jvw", "vwx"))
    merges = [tuple(pair) for pair in _merges(tokenizer) if pair != ["j", "vw"]]
    tokenizer.model = models.BPE(
        tokenizer.get_vocab(False), [*merges, ("j", "vw")],
        unk_token="<unk>", fuse_unk=True, byte_fallback=True,
    )  # fmt: skip
    return tokenizer


def _without_byte():
    tokenizer = llama()
    vocabulary = tokenizer.get_vocab(False)
    vocabulary["unused"] = vocabulary.pop("<0xF0>")
    merges = [tuple(pair) for pair in _merges(tokenizer)]
    tokenizer.model = models.BPE(
        vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    return tokenizer
