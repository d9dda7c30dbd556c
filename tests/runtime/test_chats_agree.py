"""Our chat prompts and their tokens are transformers' on the original, for each chat of the roster.

Conversations are drawn by hypothesis, the same ones in every run: roles in and out of turn, system
messages, empty and missing contents, special tokens and template syntax written as text. What
either refuses, the other refuses too.
"""

import json
from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.tiny_checkpoints import CONFIG, write_safetensors

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.reference import load
from llmkg_lab.reference.tokens import OriginalTokenizer
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.sources import fetch

pytestmark = pytest.mark.slow

TURNS = """\
{%- set said = namespace(system='') %}
{%- for message in messages if message.role == 'system' %}
    {%- set said.system = said.system ~ message['content'] | trim ~ '\n' %}
{%- endfor %}
{{- bos_token }}{{ said.system }}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if message.role not in ('user', 'assistant') %}
        {{- raise_exception('no such role: ' ~ message.role) }}
    {%- endif %}
    {%- if message.role == 'user' %}[INST] {{ message.content | tojson }} [/INST]
    {%- else %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt is true %} {% endif %}
"""
PLAIN = """\
  {% for message in messages %}
  {{ message.role }}: {{ message.content }}
    {% endfor %}
"""
NAMED = [{"name": "rag", "template": "{{ documents }}"}, {"name": "default", "template": TURNS}]
CHATS = {
    "SmolLM2": lambda folder: of_roster("smollm2_135m_instruct"),
    "TinyLlama 0.1": lambda folder: of_roster("tinyllama_1_1b_chat_v0_1"),
    "TinyLlama 0.3": lambda folder: of_roster("tinyllama_1_1b_chat_v0_3"),
    "TinyLlama 0.6": lambda folder: of_roster("tinyllama_1_1b_chat_v0_6"),
    "TinyLlama 1.0": lambda folder: of_roster("tinyllama_1_1b_chat_v1_0"),
    "GGUF": lambda folder: open_checkpoint(find_gguf()),
    "by name": lambda folder: of_template(folder, NAMED),
    "in a file of its own": lambda folder: of_template(folder, None, PLAIN),
    "in both": lambda folder: of_template(folder, PLAIN, TURNS),
}


def of_roster(name):
    variant = find_variant(name)
    fetched = fetch(variant, "synthetic:reduced")
    return open_checkpoint(fetched.path, fetched.tokenizer, variant.chat_template)


def find_gguf():
    return fetch(find_variant("smollm2_135m_instruct"), "package").path


@cache
def smollms():
    return open_checkpoint(find_gguf()).sidecars()


def of_template(folder, template, file=None):
    """A checkpoint with SmolLM2's tokenizer and a template that uses much of what there is."""
    write_safetensors(folder)
    sidecars = smollms()
    config = json.loads(sidecars["tokenizer_config.json"]) | {"chat_template": template}
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_bytes(sidecars["tokenizer.json"])
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if file:
        (folder / "chat_template.jinja").write_text(file)
    return open_checkpoint(folder)


@pytest.fixture(scope="module", params=CHATS)
def tokenizers(request, tmp_path_factory):
    """Ours, of an artifact's files; transformers', of the original; and the checkpoint."""
    checkpoint = CHATS[request.param](tmp_path_factory.mktemp("original"))
    folder = tmp_path_factory.mktemp("artifact")
    for name, content in checkpoint.sidecars().items():
        (folder / name).write_bytes(content)
    return Tokenizer.from_folder(folder), load.tokenizer(checkpoint).tokenizer, checkpoint


ROLES = ["user", "assistant", "system", "tool", "developer", "", "<|user|>"]
PARTS = ["Hi", " there", "\n", "  ", "naïve café", "日本語", "🙂", "e\u0301", "1984", "</s>", "<s>",
         "<|im_start|>", "<|im_end|>\n", "<|im_start|>assistant\n", "<|user|>", "<|endoftext|>",
         "### Human:", "[INST]", "{{ 7 * 7 }}", "{% endfor %}", "{# x #}", '"quoted"', "<b>&amp;",
         "\\n", "\x00", "\u2028"]  # fmt: skip
contents = st.lists(st.sampled_from(PARTS) | st.text(max_size=5), max_size=6).map("".join)
messages = st.builds(
    lambda role, content: {"role": role} | ({} if content is None else {"content": content}),
    st.sampled_from(ROLES) | st.sampled_from(ROLES[:3]),
    contents | contents | contents | st.none(),
)
in_turns = st.lists(contents, min_size=1, max_size=4).map(
    lambda texts: [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(texts)]
)
with_system = st.tuples(contents, in_turns).map(
    lambda drawn: [{"role": "system", "content": drawn[0]}, *drawn[1]]
)
chats = in_turns | with_system | st.lists(messages, max_size=5)


@settings(
    deadline=None,
    derandomize=True,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(chat=[], begins=True)
@example(chat=[{"role": "user", "content": None}], begins=True)
@given(chat=chats, begins=st.booleans())
def test_a_conversation_has_the_same_prompt_and_tokens(tokenizers, chat, begins):
    ours, theirs, _ = tokenizers
    expected = outcome(
        lambda: theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=begins)
    )
    prompt = outcome(lambda: ours.chat(chat, add_generation_prompt=begins), InferenceError)
    assert prompt == expected
    if expected is not None:
        ids = theirs.apply_chat_template(chat, add_generation_prompt=begins, return_dict=False)
        assert ours.encode(prompt, special=False) == ids


def outcome(render, refusal=Exception):
    try:
        return render()
    except refusal:
        return None


def test_some_of_it_is_rendered_and_some_refused(tokenizers):
    """So that agreement is not one of refusals, nor of templates that take anything."""
    ours, theirs, _ = tokenizers
    question = [{"role": "user", "content": "Why </s><|im_end|>?"}]
    assert "Why" in ours.chat(question)
    assert outcome(lambda: theirs.apply_chat_template([], tokenize=False)) is None


def test_the_report_asks_as_the_original_would(tokenizers, tmp_path, monkeypatch):
    """What a report holds its prompts against, by the name of its judge."""
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path))
    ours, _, checkpoint = tokenizers
    original = OriginalTokenizer(checkpoint)
    assert original.chats
    prompt = ours.chat([{"role": "user", "content": "Why is the sky blue?"}])
    assert original.ask("Why is the sky blue?") == ours.encode(prompt, special=False)
    again = OriginalTokenizer(checkpoint)
    monkeypatch.setattr(load, "tokenizer", None)  # the cache has it
    assert again.chats
    assert again.ask("Why is the sky blue?") == ours.encode(prompt, special=False)
