"""The four generations of TinyLlama's chats, each spoken to in its own form."""

import pytest

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.sources import fetch

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Why?"},
]
HUMAN = "<s>### Human: Hi### Assistant: Yes?### Human: Why?### Assistant:"
CHATML = (
    "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
    "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
)
ZEPHYR = "<|user|>\nHi</s>\n<|assistant|>\nYes?</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n"


def open_tokenizer(name: str, folder) -> Tokenizer:
    variant = find_variant(name)
    fetched = fetch(variant, "synthetic:reduced")
    checkpoint = open_checkpoint(fetched.path, fetched.tokenizer, variant.chat_template)
    for file, content in checkpoint.sidecars().items():
        (folder / file).write_bytes(content)
    return Tokenizer.from_folder(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "prompt"), [("0_1", HUMAN), ("0_3", CHATML), ("0_6", ZEPHYR), ("1_0", ZEPHYR)]
)
def test_each_generation_is_spoken_to_in_its_own_form(version, prompt, tmp_path):
    tokenizer = open_tokenizer(f"tinyllama_1_1b_chat_v{version}", tmp_path)
    assert tokenizer.chat(TALK) == prompt
    assert tokenizer.chat(TALK, add_generation_prompt=False) == prompt[: prompt.rindex("Why?")] + (
        {"0_1": "Why?", "0_3": "Why?<|im_end|>\n"}.get(version, "Why?</s>\n")
    )


@pytest.mark.slow
def test_a_role_that_a_model_was_not_taught_is_refused(tmp_path):
    tokenizer = open_tokenizer("tinyllama_1_1b_chat_v0_1", tmp_path)
    with pytest.raises(InferenceError, match="knows the roles user and assistant"):
        tokenizer.chat([{"role": "system", "content": "Be kind."}, *TALK])


@pytest.mark.slow
def test_the_checkpoints_own_template_comes_first(tmp_path):
    variant = find_variant("tinyllama_1_1b_chat_v1_0")
    checkpoint = open_checkpoint(fetch(variant, "synthetic:reduced").path, None, "another")
    assert b"another" not in checkpoint.sidecars()["tokenizer_config.json"]
