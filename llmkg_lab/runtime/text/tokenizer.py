"""Text to tokens and back, from an artifact's tokenizer.json and tokenizer_config.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers

from llmkg_lab.base.errors import panics_raised
from llmkg_lab.checkpoint import tokenizer_config
from llmkg_lab.checkpoint.tokenizer_files import tried
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text import cleanup, cutting

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}
REPLACEMENT = "\ufffd"  # what bytes that make no character are decoded to


class Tokenizer:
    """A `tokenizers.Tokenizer` with what the runtime needs of tokenizer_config.json.

    transformers gives the same tokens but takes seconds to import.
    """

    def __init__(self, core: tokenizers.Tokenizer, config: dict) -> None:
        # A tokenizer.json may ask for a fixed length, as all-MiniLM-L6-v2's does; here it is
        # the caller who pads and truncates.
        core.no_truncation()
        core.no_padding()
        core.encode_special_tokens = bool(config.get("split_special_tokens"))
        self.core = core
        self.config = config
        self.cleans_up = cleanup.is_wanted(core, config)
        # a model that does not read segments is given none, as transformers does
        inputs = config.get("model_input_names") or ["token_type_ids"]
        self._has_types = "token_type_ids" in inputs
        self._cutter = cutting.Cutter(core, config.get("truncation_side") or "right")

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read tokenizer.json, and tokenizer_config.json and chat_template.jinja where present.

        Raises InferenceError where tokenizer.json is missing, or one of them cannot be read or
        breaks the bounds of ``tokenizer_files.tried``.
        """
        folder = Path(folder)
        try:
            paths = [folder / name for name in (TOKENIZER, CONFIG, TEMPLATE)]
            files = {path.name: path.read_bytes() for path in paths if path.exists()}
        except OSError as error:
            raise _unreadable(str(folder), error) from error
        return cls.from_files(files, str(folder))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], where: str = "the files") -> Self:
        """The same from the files' contents by name; ``where`` is what an error calls them."""
        try:
            if TOKENIZER not in files:
                raise ValueError(f"there is no {TOKENIZER}")
            content = tried(files[TOKENIZER])
            with panics_raised():
                core = tokenizers.Tokenizer.from_buffer(content)
            config = json.loads(files.get(CONFIG, b"{}"))
            config = tokenizer_config.checked(config)
            if TEMPLATE in files:
                config["chat_template"] = files[TEMPLATE].decode()
        except (ValueError, RuntimeError, RecursionError) as error:
            raise _unreadable(where, error) from error
        return cls(core, config)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; ``special`` adds what tokenizer.json puts around a text (BOS, [CLS], …)."""
        with _failing():
            return self.core.encode(text, add_special_tokens=special).ids

    def encode_batch(
        self, texts: Sequence[str | tuple[str, str]], max_length: int
    ) -> dict[str, np.ndarray]:
        """An encoder's inputs for texts or pairs, truncated, padded at the right to the longest.

        Returns input_ids, attention_mask and token_type_ids, each (texts, tokens) int64.
        """
        return self._padded(self._encoded(texts, max_length))

    def batches(
        self,
        texts: Sequence[str | tuple[str, str]],
        max_length: int,
        tokens: int,
        batch_size: int | None = None,
    ) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """An encoder's inputs for many texts, those of like length together: little is padding.

        tokens: what a batch may have, padding counted; a longer text has one of its own.
        batch_size: texts that a batch may have.
        Yields (indices of the texts, inputs as ``encode_batch`` gives them).
        """
        return self._batched(self._encoded(texts, max_length), tokens, batch_size)

    def batches_of_ids(
        self, texts: Sequence[Sequence[int]], tokens: int, batch_size: int | None = None
    ) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """The same for texts given as tokens, with all that belongs around them."""
        encoded = [cutting.Encoded(list(ids), [0] * len(ids)) for ids in texts]
        return self._batched(encoded, tokens, batch_size)

    def lengths(self, texts: Sequence[str | tuple[str, str]]) -> list[int]:
        """The tokens of whole texts or pairs, those around them counted."""
        with _failing():
            return [self._cutter.length(text) for text in texts]

    def _batched(
        self, encoded: Sequence[cutting.Encoded], tokens: int, batch_size: int | None
    ) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        batch: list[int] = []
        for i in sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids)):
            full = len(encoded[i].ids) * (len(batch) + 1) > tokens or len(batch) == batch_size
            if batch and full:
                yield batch, self._padded([encoded[i] for i in batch])
                batch = []
            batch.append(i)
        if batch:
            yield batch, self._padded([encoded[i] for i in batch])

    def _encoded(
        self, texts: Sequence[str | tuple[str, str]], max_length: int
    ) -> list[cutting.Encoded]:
        with _failing():
            return self._cutter.encode(texts, max_length)

    def _padded(self, encoded: Sequence[cutting.Encoded]) -> dict[str, np.ndarray]:
        shape = (len(encoded), max((len(text.ids) for text in encoded), default=0))
        inputs = {
            name: np.zeros(shape, np.int64)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        inputs["input_ids"].fill(self._token_id("pad_token") or 0)
        for row, text in enumerate(encoded):
            inputs["input_ids"][row, : len(text.ids)] = text.ids
            inputs["attention_mask"][row, : len(text.ids)] = 1
            if self._has_types:
                inputs["token_type_ids"][row, : len(text.ids)] = text.types
        return inputs

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, special tokens left out."""
        text = self.decode_raw(ids)
        return cleanup.cleaned(text) if self.cleans_up else text

    def decode_raw(self, ids: Sequence[int]) -> str:
        """The same before spaces are cleaned up, where the model asks for that."""
        with _failing():
            return self.core.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt for a conversation, by the chat template; encode it with special=False.

        Raises InferenceError where there is no template or it refuses the messages.
        """
        from llmkg_lab.runtime.text import chat  # Jinja, for which plain prompts need not wait

        return chat.render(
            self._chat_template(),
            messages,
            add_generation_prompt=add_generation_prompt,
            **self.special_tokens(),
        )

    @property
    def chats(self) -> bool:
        """Whether there is a template for conversations."""
        try:
            return bool(self._chat_template())
        except InferenceError:
            return False

    def _chat_template(self) -> str:
        templates = tokenizer_config.templates(self.config)
        if templates and "default" not in templates:
            raise InferenceError(
                f"this model has chat templates for {', '.join(templates)} alone",
                "its tokenizer_config.json names no default template",
            )
        if not (template := templates.get("default")):
            raise InferenceError(
                "this model has no chat template: it continues text and was not taught to chat",
                "give the prompt as text, or use the -Instruct or -Chat variant",
            )
        return template

    @cached_property
    def byte_tokens(self) -> frozenset[int]:
        """The tokens that are single bytes of characters outside of the vocabulary."""
        decoder = self.core.decoder
        if decoder is None or b"ByteFallback" not in decoder.__getstate__():
            return frozenset()
        ids = (self.token_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(token for token in ids if token is not None)

    def token_id(self, token: str) -> int | None:
        """The id of a token given as it stands in the vocabulary, None where there is none."""
        return self.core.token_to_id(token)

    def special_id(self, token: str) -> int | None:
        """The id of a special token, None where the text is none."""
        token_id = self.token_id(token)
        return token_id if token_id is not None and self.is_special(token_id) else None

    def is_special(self, token_id: int) -> bool:
        """Whether an id is one of a special token, which no text shows."""
        return token_id in self._special_ids

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self.core.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def special_tokens(self) -> dict[str, str]:
        """The special tokens that have names (bos_token, …), by name."""
        named = {name: value for name, value in self.config.items() if name.endswith("_token")}
        if isinstance(more := self.config.get("extra_special_tokens"), dict):
            named |= more
        texts = {name: _content(value) for name, value in named.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    def _token_id(self, name: str) -> int | None:
        token = self.special_tokens().get(name)
        return None if token is None else self.token_id(token)


def _unreadable(where: str, error: Exception) -> InferenceError:
    return InferenceError(
        f"cannot read the tokenizer in {where}: {error}",
        "convert the checkpoint again, from a folder with a tokenizer.json",
    )


def _content(token: object) -> object:
    """A special token's text, which may stand among its properties."""
    return token.get("content") if isinstance(token, dict) else token


@contextmanager
def _failing() -> Iterator[None]:
    """Raise InferenceError where the tokenizers library fails on a text."""
    try:
        with panics_raised():
            yield
    except Exception as error:  # it has no type of its own
        raise InferenceError(
            f"the tokenizer fails on this text: {error}", "the text, or the tokenizer, is damaged"
        ) from error


class DetokenizeStream:
    """Tokens to text, one at a time, never half a character and never a space too many.

    The pieces, with ``flush()``, are what ``decode(prompt + tokens)`` has beyond the prompt's
    whole characters; where spaces are cleaned up, they are within what comes behind the prompt. A
    new token is decoded behind the tokens of the last piece, because its text depends on them:
    SentencePiece drops the space before a first word.
    `tokenizers.DecodeStream` works alike, but shows the prompt again where that ends within a
    character, and never gives out the last text of a stream that does.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._decode = tokenizer.decode_raw
        self._bytes, self._is_special = tokenizer.byte_tokens, tokenizer.is_special
        self._cleaner = cleanup.CleanUp(tokenizer.cleans_up)
        self._tokens = list(prompt)
        text = self._decode(self._tokens)
        self._shown = text.rstrip(REPLACEMENT)
        # tokens since the last whole character
        self._pending = 0 if self._shown == text else len(self._tokens)

    def push(self, token: int) -> str:
        """Take the next token; return the text that it completes, often one word, or ""."""
        if self._is_special(token):
            return ""
        self._tokens.append(token)
        self._pending += 1
        text = self._decode(self._tokens)
        # bytes in a row make characters together, or none: the last may spoil the first
        if token in self._bytes or text.endswith(REPLACEMENT) or len(text) <= len(self._shown):
            return ""
        piece = text[len(self._shown) :]
        self._tokens = self._tokens[-self._pending :]
        self._pending = 0
        self._shown = self._decode(self._tokens)
        return self._cleaner.push(piece)

    def flush(self) -> str:
        """The stream ended: the text held back, an incomplete character as U+FFFD."""
        rest = self._decode(self._tokens)[len(self._shown) :]
        return self._cleaner.push(rest) + self._cleaner.flush()
