"""A tokenizer.json as GGUF's metadata: the way back is ``checkpoint.gguf_tokenizer``.

llama.cpp reads no tokenizer.json: it knows a few algorithms by name. One that it
would not run exactly is refused, because it would tokenize wrongly without a word.
"""

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

from gguf import GGUFWriter, TokenType
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from llmkg_lab.checkpoint import spm, tokenizer_config
from llmkg_lab.checkpoint.gguf_tokenizer import SPECIAL
from llmkg_lab.checkpoint.spm import SPACE
from llmkg_lab.models.base import UnsupportedError

log = logging.getLogger(__name__)

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
SPLITS = {"gpt-2": [BYTE_LEVEL], "smollm": [DIGITS, BYTE_LEVEL]}  # llama.cpp's names for them
PREPEND = {"type": "Prepend", "prepend": SPACE}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
METASPACE = {"type": "Metaspace", "replacement": SPACE, "split": False}
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
        "lowercase": True}  # fmt: skip
MARKS = (
    "llama.cpp leaves out vowels of Korean and of Indic scripts, which BERT's tokenizer reads: the "
    "GGUF file tokenizes such texts otherwise"
)
BYTES = {f"<0x{byte:02X}>" for byte in range(256)}  # SentencePiece's tokens of single bytes
ONNX = "llama.cpp cannot; use the ONNX artifact"


@dataclass(frozen=True)
class Source:
    """tokenizer.json, parsed and as a working tokenizer, and tokenizer_config.json."""

    spec: dict
    core: Tokenizer
    config: dict
    rows: int  # of the embedding table, which may be more than there are tokens
    remarks: list[str] = field(default_factory=list)  # what llama.cpp does otherwise

    def say(self, remark: str) -> None:
        """Tell whoever exports what is not worth a refusal."""
        log.warning(remark)
        self.remarks.append(remark)

    @cached_property
    def tokens(self) -> list[str]:
        """Tokens by id; ids without one get a name that no text holds."""
        names = {index: token for token, index in self.core.get_vocab(True).items()}
        return [names.get(index, f"[PAD{index}]") for index in range(self.rows)]

    @cached_property
    def kinds(self) -> list[int]:
        """GGUF's token types by id."""
        used = self.core.get_vocab(True)
        kinds = [TokenType.NORMAL if token in used else TokenType.UNUSED for token in self.tokens]
        unknown = self.spec["model"].get("unk_token")
        if self.spec["model"].get("byte_fallback"):
            unknown = unknown or self.special("unk")  # no text makes it, so a file may leave it out
            for byte in BYTES & used.keys():
                kinds[used[byte]] = TokenType.BYTE
        for index, token in self.added.items():
            kinds[index] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
        if unknown in used:
            kinds[used[unknown]] = TokenType.UNKNOWN
        return [int(kind) for kind in kinds]

    @cached_property
    def added(self) -> dict[int, AddedToken]:
        """The tokens that are kept whole wherever a text has them, by id."""
        return self.core.get_added_tokens_decoder()

    def special(self, name: str) -> str:
        """The token of bos, eos, unk, …, "" where the model has none."""
        token = self.config.get(f"{name}_token")
        return (token["content"] if isinstance(token, dict) else token) or ""

    def special_id(self, name: str) -> int | None:
        """The id of bos, eos, unk, …, None where the model has none."""
        return self.core.token_to_id(self.special(name))


def add_tokenizer(
    writer: GGUFWriter, sidecars: dict[str, bytes], rows: int, ends: Sequence[int] = ()
) -> list[str]:
    """Put the tokenizer and its chat template into the file; "no_vocab" where there is none.

    sidecars: as ``Checkpoint.sidecars`` has them. rows: of the embedding table. ends: the ids of
    tokens that end a text.
    Returns what a user must know of texts that llama.cpp tokenizes otherwise.
    Raises UnsupportedError on a tokenizer that llama.cpp does not run as it is.
    """
    if "tokenizer.json" not in sidecars:
        writer.add_tokenizer_model("no_vocab")
        _add_ends_of_text(writer, None, ends, rows)
        return []
    content = sidecars["tokenizer.json"]
    config = json.loads(sidecars.get("tokenizer_config.json", b"{}"))
    core = Tokenizer.from_buffer(content)
    core.no_truncation()
    core.no_padding()
    if not config.get("eos_token") and ends:
        config["eos_token"] = core.id_to_token(ends[0])
    _check_ids(core, rows)
    source = Source(json.loads(core.to_str()), core, config, rows)
    write = _writer_of(source.spec)
    _check_added(source)
    write(writer, source)
    _add_special(writer, source)
    _add_ends_of_text(writer, source.special_id("eos"), ends, rows)
    if template := tokenizer_config.templates(config).get("default"):
        writer.add_chat_template(template)
    return source.remarks


def _check_ids(core: Tokenizer, rows: int) -> None:
    """Refuse ids without a row, before ``to_str``, which takes memory for all below the largest."""
    largest = max(core.get_vocab(True).values(), default=0)
    if largest >= rows:
        raise UnsupportedError(
            f"the tokenizer has the id {largest}, the embedding table {rows} rows",
            "tokenizer.json and weights are of different models",
        )


def _writer_of(spec: dict) -> Callable[[GGUFWriter, Source], None]:
    model = spec["model"]
    if model["type"] == "WordPiece":
        return _add_word_piece
    if model["type"] == "BPE":
        return _add_sentencepiece if model.get("byte_fallback") else _add_byte_level
    raise UnsupportedError(
        f"GGUF export of a tokenizer of the kind {model['type']}",
        "supported are byte-level BPE, Llama's SentencePiece BPE and WordPiece; for Candle alone, "
        "leave it out: --no-tokenizer",
    )


def _refuse(what: str, hint: str = ONNX) -> NoReturn:
    raise UnsupportedError(f"GGUF export of a tokenizer {what}", hint)


def _check_added(source: Source) -> None:
    """Refuse what llama.cpp has no word for in tokens that are kept whole.

    It looks for the longest of them in the whole text, then for the next; tokenizers takes the
    first that begins, of several the longest. The two differ where one ends as another begins.
    """
    if source.config.get("split_special_tokens"):
        _refuse("that takes special tokens apart (split_special_tokens)")
    for token in source.added.values():
        for flag in ("lstrip", "rstrip", "single_word"):
            if getattr(token, flag):
                _refuse(f"whose token {token.content!r} has the flag {flag}")
        if token.normalized and source.core.normalizer:
            _refuse(f"whose token {token.content!r} is looked for in normalized text")
    contents = sorted((token.content for token in source.added.values()), key=len)
    for short, long in itertools.combinations(contents, 2):
        if _meet(short, long) or (len(short) == len(long) and _meet(long, short)):
            _refuse(f"whose tokens {short!r} and {long!r} may overlap in a text")


def _meet(first: str, second: str) -> bool:
    """Whether one token ends as another begins; runs of one character are cut alike."""
    return (
        second[:1] in first[1:]
        and len({*first, *second}) > 1
        and any(first.endswith(second[:size]) for size in range(1, len(first)))
    )


def _add_byte_level(writer: GGUFWriter, source: Source) -> None:
    """GPT-2's BPE over bytes, told apart by how a text is split before the merges."""
    split = _steps(source.spec["pre_tokenizer"], "pretokenizers")
    known = [name for name, steps in SPLITS.items() if _alike(split, steps)]
    if not known or source.spec["normalizer"]:
        _refuse(
            "of bytes that splits texts in its own way",
            f"supported are the ways of {', '.join(SPLITS)}",
        )
    _check_bpe(source)
    letters = pre_tokenizers.ByteLevel.alphabet()
    missing = [letter for letter in letters if source.core.token_to_id(letter) is None]
    if missing and source.spec["model"]["unk_token"]:  # llama.cpp leaves such bytes out
        _refuse(f"with an unknown token for {len(missing)} of the 256 bytes")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(known[0])
    writer.add_token_list(source.tokens)
    writer.add_token_types(source.kinds)
    writer.add_token_merges([" ".join(pair) for pair in _merges(source.spec)])
    writer.add_add_space_prefix(False)


def _check_bpe(source: Source) -> None:
    model = source.spec["model"]
    if model.get("ignore_merges"):
        _refuse("that takes whole words before merges (ignore_merges)")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            _refuse(f"with the option {option}")


def _add_sentencepiece(writer: GGUFWriter, source: Source) -> None:
    """SentencePiece's BPE with byte fall-back."""
    prefix = _space_before(source)
    _check_bpe(source)
    if BYTES - source.core.get_vocab(True).keys():
        _refuse("that falls back to bytes and lacks tokens for some")
    scores = _scores(source)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(source.tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(source.kinds)
    writer.add_add_space_prefix(prefix)


def _scores(source: Source) -> list[float]:
    """SentencePiece's scores of the tokens: the earlier a token is merged, the higher.

    tokenizer.json keeps merges in the place of scores. Only their order counts; numbered like
    this, they are the numbers of Llama's own tokenizer.model. llama.cpp joins any two tokens that
    make a third, so a tokenizer that joins only some is refused.
    """
    merges = [tuple(pair) for pair in _merges(source.spec)]
    made = dict.fromkeys("".join(pair) for pair in merges)
    normal = {t for t, kind in zip(source.tokens, source.kinds, strict=True) if kind == 1}
    rest = [token for token in source.tokens if token in normal and token not in made]
    scores = {token: -float(rank) for rank, token in enumerate([*made, *rest])}
    vocabulary = source.core.get_vocab(False)
    if {*spm.merges(vocabulary, [0.0] * (max(vocabulary.values()) + 1))} != {*merges}:
        _refuse("with other merges than SentencePiece would take from its tokens")
    ranks = [scores["".join(pair)] for pair in merges]
    if ranks != sorted(ranks, reverse=True):
        _refuse("whose merges to one token do not follow one another")
    return [scores.get(token, 0.0) for token in source.tokens]


def _space_before(source: Source) -> bool:
    """Whether a space is put before a text: said by a normalizer or, newer, by a pre-tokenizer.

    llama.cpp puts one before each stretch of text, whatever that begins with.
    """
    spec = source.spec
    normalizers = _steps(spec["normalizer"], "normalizers")
    splits = _steps(spec["pre_tokenizer"], "pretokenizers")
    if not splits and normalizers in ([REPLACE], [PREPEND, REPLACE]):
        return PREPEND in normalizers
    if not normalizers and len(splits) == 1 and splits[0] == splits[0] | METASPACE:
        if (scheme := splits[0]["prepend_scheme"]) != "never":
            also = " and behind each special token" if scheme == "first" else ""
            source.say(
                f"llama.cpp puts a space before a text that begins with one, too{also}; "
                "transformers does not: the GGUF file tokenizes such texts as SentencePiece does"
            )
        return scheme != "never"
    kinds = ", ".join(step["type"] for step in [*normalizers, *splits]) or "none"
    _refuse(
        f"of SentencePiece with the steps {kinds}",
        "supported is one that only marks spaces, as Llama's",
    )


def _add_word_piece(writer: GGUFWriter, source: Source) -> None:
    """BERT's WordPiece, lower-cased and without accents, as llama.cpp runs every one.

    It decomposes Hangul in part, and takes all marks for accents, where BERT takes those without
    a width. An export is wanted for texts in other scripts all the same.
    """
    normalizer, model = source.spec["normalizer"] or {}, source.spec["model"]
    if normalizer != normalizer | BERT or normalizer.get("strip_accents") is False:
        _refuse(
            "of WordPiece that keeps upper case, accents or other marks",
            "llama.cpp lower-cases every text; use the ONNX artifact",
        )
    if source.spec["pre_tokenizer"] != {"type": "BertPreTokenizer"}:
        _refuse("of WordPiece that splits texts in its own way")
    if model["continuing_subword_prefix"] != "##" or source.special_id("unk") is None:
        _refuse("of WordPiece that does not mark the inside of words by ##, or knows no [UNK]")
    around = [source.special_id("cls"), None, source.special_id("sep")]
    if None in (around[0], around[2]) or _around(source) != around:
        _refuse("of WordPiece that puts anything but [CLS] and [SEP] around a text")
    typed = zip(source.tokens, source.kinds, strict=True)
    spelled = [token if kind == TokenType.UNUSED else _phantom(token) for token, kind in typed]
    if len(set(spelled)) < len(spelled):
        _refuse("of WordPiece with two tokens that GGUF spells alike")
    source.say(MARKS)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(spelled)
    writer.add_token_types(source.kinds)
    if (first := source.special_id("cls")) is not None:
        writer.add_bos_token_id(first)  # what llama.cpp puts before a text


def _phantom(token: str) -> str:
    """GGUF marks the start of a word, BERT its inside; [CLS] and the like stay as they are."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token.removeprefix("##") if token.startswith("##") else f"{SPACE}{token}"


def _add_special(writer: GGUFWriter, source: Source) -> None:
    for name, key in SPECIAL.items():
        if (index := source.special_id(name)) is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", index)
    if source.spec["model"]["type"] == "WordPiece":  # which always has its ends
        return
    before, after = _ends(source)
    writer.add_add_bos_token(before)
    writer.add_add_eos_token(after)
    if source.special_id("eos") is None:
        _refuse("that names no end of text, for which another token would be taken")


def _add_ends_of_text(writer: GGUFWriter, eos: int | None, ends: Sequence[int], rows: int) -> None:
    """Name the ends of a turn, at which llama.cpp stops as at EOS.

    eos: the id that is in the file already.
    """
    if outside := [end for end in ends if not 0 <= end < rows]:
        _refuse(f"where the id {outside[0]} ends a text: the embedding table has {rows} rows")
    others = [end for end in dict.fromkeys(ends) if end != eos]
    places = ("eot", "eom") if eos is not None else ("eos", "eot", "eom")
    if len(others) > len(places):
        _refuse(f"where {len(others)} tokens beside EOS end a text, and GGUF has places for two")
    for place, end in zip(places, others, strict=False):
        writer.add_uint32(f"tokenizer.ggml.{place}_token_id", end)


def _ends(source: Source) -> tuple[bool, bool]:
    """Whether BOS is put before a text, and EOS behind it."""
    around = _around(source)
    place = around.index(None)
    before, after = around[:place], around[place + 1 :]
    if before not in ([], [source.special_id("bos")]) or after not in (
        [],
        [source.special_id("eos")],
    ):
        _refuse("that puts anything but BOS and EOS around a text")
    return bool(before), bool(after)


def _around(source: Source) -> list[int | None]:
    """The ids of the tokens around a text, with None in its place."""
    texts = (*"a0.", *source.tokens)
    is_read = (t for t in texts if source.core.encode(t, add_special_tokens=False).ids)
    text = next(is_read, None)
    if text is None:
        _refuse("that makes no tokens of any text")
    encoding = source.core.encode(text)
    around: list[int | None] = []
    for token, number in zip(encoding.ids, encoding.sequence_ids, strict=True):
        if number is None:
            around.append(token)
        elif None not in around:
            around.append(None)
    return around


def _merges(spec: dict) -> list[list[str]]:
    """Pairs of tokens; older files write them as one string."""
    merges = spec["model"]["merges"]
    return [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in merges]


def _steps(spec: dict | None, inside: str) -> list[dict]:
    """A normalizer or pre-tokenizer as a list, whether it is a sequence, one step or none."""
    if not spec:
        return []
    return spec[inside] if spec["type"] == "Sequence" else [spec]


def _alike(steps: list[dict], wanted: list[dict]) -> bool:
    """Whether each step has what is wanted of it; a file may omit use_regex, which is then true."""
    pairs = list(zip(steps, wanted, strict=False))
    return len(steps) == len(wanted) and all(
        {"use_regex": True} | s | w == {"use_regex": True} | s for s, w in pairs
    )
