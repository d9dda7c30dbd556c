"""tokenizer_config.json: the types of the keys that are read here, and its chat templates."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class _Token(msgspec.Struct):
    """A special token among its properties."""

    content: str


class _Template(msgspec.Struct):
    """One chat template of several."""

    name: str
    template: str


Token = str | _Token | None


class _Known(msgspec.Struct):
    """What is read here; transformers looks at the other keys."""

    chat_template: str | list[_Template] | dict[str, str] | None = None
    model_max_length: float | None = None
    model_input_names: list[str] | None = None
    truncation_side: Literal["left", "right"] | None = None
    clean_up_tokenization_spaces: bool | None = None
    split_special_tokens: bool | None = None
    bos_token: Token = None
    eos_token: Token = None
    unk_token: Token = None
    sep_token: Token = None
    pad_token: Token = None
    cls_token: Token = None
    mask_token: Token = None


def checked(config: Any) -> dict[str, Any]:
    """Return the content of a tokenizer_config.json. Raises ValueError where a type is wrong."""
    try:
        msgspec.convert(config, _Known)
        json.dumps(config, ensure_ascii=False).encode()  # half a character is no text
    except (msgspec.ValidationError, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"tokenizer_config.json: {error}") from None
    return dict(config)


def templates(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates by name; a single one is the default. config: checked."""
    stored = config.get("chat_template")
    if isinstance(stored, list):
        return {entry["name"]: entry["template"] for entry in stored}
    if isinstance(stored, Mapping):
        return dict(stored)
    return {"default": stored} if stored else {}
