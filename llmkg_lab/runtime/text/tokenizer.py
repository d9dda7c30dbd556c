"""Text to tokens and back, from an artifact's tokenizer.json and tokenizer_config.json."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers

from llmkg_lab.runtime import InferenceError

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
        self.core = core
        self.config = config
        self._has_types = "token_type_ids" in config.get("model_input_names", ["token_type_ids"])

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read tokenizer.json, and tokenizer_config.json and chat_template.jinja where present.

        Raises InferenceError where tokenizer.json is missing or one of them cannot be read.
        """
        folder = Path(folder)
        try:
            core = tokenizers.Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
            config_file = folder / "tokenizer_config.json"
            config = json.loads(config_file.read_bytes()) if config_file.exists() else {}
            template_file = folder / "chat_template.jinja"
            if template_file.exists():
                config["chat_template"] = template_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InferenceError(
                f"cannot read the tokenizer in {folder}: {error}",
                "convert the checkpoint again, from a folder with a tokenizer.json",
            ) from error
        return cls(core, config)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; ``special`` adds what tokenizer.json puts around a text (BOS, [CLS], …)."""
        return self.core.encode(text, add_special_tokens=special).ids

    def encode_batch(
        self, texts: Sequence[str | tuple[str, str]], max_length: int
    ) -> dict[str, np.ndarray]:
        """An encoder's inputs for texts or pairs, truncated, padded at the right to the longest.

        Returns input_ids, attention_mask and token_type_ids, each (texts, tokens) int64.
        """
        return self._padded(self._encodings(texts, max_length))

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
        encodings = self._encodings(texts, max_length)
        batch: list[int] = []
        for i in sorted(range(len(texts)), key=lambda i: len(encodings[i])):
            full = len(encodings[i]) * (len(batch) + 1) > tokens or len(batch) == batch_size
            if batch and full:
                yield batch, self._padded([encodings[i] for i in batch])
                batch = []
            batch.append(i)
        if batch:
            yield batch, self._padded([encodings[i] for i in batch])

    def _encodings(
        self, texts: Sequence[str | tuple[str, str]], max_length: int
    ) -> list[tokenizers.Encoding]:
        self.core.enable_truncation(max_length)
        try:
            return self.core.encode_batch(texts)
        finally:
            self.core.no_truncation()

    def _padded(self, encodings: Sequence[tokenizers.Encoding]) -> dict[str, np.ndarray]:
        shape = (len(encodings), max(map(len, encodings), default=0))
        inputs = {
            name: np.zeros(shape, np.int64)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        inputs["input_ids"].fill(self._token_id("pad_token") or 0)
        for row, encoding in enumerate(encodings):
            inputs["input_ids"][row, : len(encoding)] = encoding.ids
            inputs["attention_mask"][row, : len(encoding)] = 1
            if self._has_types:  # else transformers leaves them out, and the model takes zeros
                inputs["token_type_ids"][row, : len(encoding)] = encoding.type_ids
        return inputs

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, special tokens left out."""
        return self.core.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The prompt for a conversation, by the chat template; encode it with special=False.

        Raises InferenceError where there is no template or it refuses the messages.
        """
        from llmkg_lab.runtime.text import chat  # Jinja, for which plain prompts need not wait

        special = {name: self._special(name) for name in self.config if name.endswith("_token")}
        return chat.render(
            self._chat_template(), messages, add_generation_prompt=add_generation_prompt, **special
        )

    def _chat_template(self) -> str:
        template = self.config.get("chat_template")
        if isinstance(template, list):  # several by name
            named = {entry["name"]: entry["template"] for entry in template}
            template = named.get("default")
        if not template:
            raise InferenceError(
                "this model has no chat template: it continues text and was not taught to chat",
                "give the prompt as text, or use the -Instruct or -Chat variant",
            )
        return template

    def token_id(self, token: str) -> int | None:
        """The id of a token given as it stands in the vocabulary, None where there is none."""
        return self.core.token_to_id(token)

    def _special(self, name: str) -> str | None:
        token = self.config.get(name)
        return token["content"] if isinstance(token, dict) else token

    def _token_id(self, name: str) -> int | None:
        token = self._special(name)
        return None if token is None else self.token_id(token)


class DetokenizeStream:
    """Tokens to text, one at a time, never half a character and never a space too many.

    The pieces, with ``flush()``, are what ``decode(prompt + tokens)`` has beyond the prompt's
    whole characters. A new token is decoded behind the tokens of the last piece, because its
    text depends on them: SentencePiece drops the space before a first word.
    `tokenizers.DecodeStream` works alike, but shows the prompt again where that ends within a
    character, and never gives out the last text of a stream that does.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt)
        text = tokenizer.decode(self._tokens)
        self._shown = text.rstrip(REPLACEMENT)
        # tokens since the last whole character
        self._pending = 0 if self._shown == text else len(self._tokens)

    def push(self, token: int) -> str:
        """Take the next token; return the text that it completes, often one word, or ""."""
        self._tokens.append(token)
        self._pending += 1
        text = self._tokenizer.decode(self._tokens)
        if text.endswith(REPLACEMENT) or len(text) <= len(self._shown):
            return ""
        piece = text[len(self._shown) :]
        self._tokens = self._tokens[-self._pending :]
        self._pending = 0
        self._shown = self._tokenizer.decode(self._tokens)
        return piece

    def flush(self) -> str:
        """The stream ended: the text held back, an incomplete character as U+FFFD."""
        return self._tokenizer.decode(self._tokens)[len(self._shown) :]
