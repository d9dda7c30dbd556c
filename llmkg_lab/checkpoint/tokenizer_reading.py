"""Read a folder's tokenizer as transformers does: a program of ``base.bounded``, run alone.

What a folder's tokenizer is, only transformers' AutoTokenizer says: the class that
tokenizer_config.json names may take the place of steps that tokenizer.json states.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

EMPTY = {  # what transformers puts where tokenizer.json has no post_processor
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}
OWN = ("version", "truncation", "padding")  # the caller's affair in each use


def answer(request: bytes) -> bytes:
    """Read the folder whose path is ``request``.

    Returns:
        A JSON object. tokenizer: tokenizer.json's text, null where the folder's file says just
        that. changed: the parts of the folder's file that transformers takes otherwise. special:
        the special tokens by name (bos_token, …). inputs: the names of the model's inputs.
    """
    folder = Path(request.decode())
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # seconds, and not needed
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").exists() and (folder / "tokenizer.model").exists():
        _check_model(folder / "tokenizer.model")
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ValueError(f"{type(tokenizer).__name__} has no form that fits tokenizer.json")
    read = tokenizer.backend_tokenizer
    changed = _changed(folder / "tokenizer.json", read)
    return json.dumps(
        {
            "tokenizer": read.to_str() if changed else None,
            "changed": changed,
            "special": tokenizer.special_tokens_map,
            "inputs": tokenizer.model_input_names,
        }
    ).encode()


def _check_model(path: Path) -> None:
    """Refuse a damaged model, which transformers takes for one of another library."""
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path.name} is no model of SentencePiece") from error


def _changed(path: Path, read: Tokenizer) -> list[str]:
    """The parts of a tokenizer.json in which ``read`` differs; all of them without the file."""
    wanted = _parts(read)
    if not path.exists():
        return list(wanted)
    stated = _parts(Tokenizer.from_file(str(path)))
    return [name for name, part in wanted.items() if stated[name] != part]


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    parts = {k: part for k, part in json.loads(tokenizer.to_str()).items() if k not in OWN}
    parts["post_processor"] = parts["post_processor"] or EMPTY
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if parts["model"].get(affix) == "":
            parts["model"][affix] = None
    return parts
