"""All files that say how a model is to be used, with the table of each: see ``models.keys``.

``python -m llmkg_lab.checkpoint.tables`` prints them as a page; docs/reference/files.md holds it.
"""

import json
from collections.abc import Iterator

from llmkg_lab.checkpoint import keys
from llmkg_lab.models import FORMS
from llmkg_lab.models.keys import CONFIG, Rule, Table
from llmkg_lab.models.rope import KEYS as ROPE

INTRODUCTION = """\
# What becomes of each key of a checkpoint's files

A key is *followed*, or *harmless* for the reason given; of one that is *noted* a word is said, and
one that is *refused* ends a conversion by its name. A value that changes nothing is never refused.
Of a key that no table has a word is said as well, unless it is null. What was said is in the
artifact's manifest and among the reasons of its report. `*` stands for any characters.

Files of weights and vocabularies are read whole; other files are not looked at.
"""


def tables() -> dict[str, Table]:
    """Return the table of each file by its name, as a reader of a checkpoint's folder knows it."""
    configs = {
        f"config.json, {kind}": {k: r for k, r in form.keys.items() if CONFIG.get(k) != r}
        for kind, form in FORMS.items()
    }
    gguf = {
        f"GGUF, `{form.gguf.architecture}.…`": form.gguf_keys
        for form in FORMS.values()
        if form.gguf_keys
    }
    return {
        "config.json": CONFIG,
        **configs,
        "config.json: rope_scaling, rope_parameters": ROPE,
        "config.json: quantization_config; quantize_config.json; quant_config.json": (
            keys.QUANTIZATION
        ),
        "generation_config.json": keys.GENERATION,
        "tokenizer_config.json": keys.TOKENIZER_CONFIG,
        "special_tokens_map.json": keys.SPECIAL_TOKENS,
        "added_tokens.json": keys.ADDED_TOKENS,
        "tokenizer.json": keys.TOKENIZER,
        "tokenizer.json: added_tokens": keys.ADDED_TOKEN,
        "sentence_bert_config.json": keys.SENTENCE_BERT,
        "config_sentence_transformers.json": keys.SENTENCE_TRANSFORMERS,
        "modules.json": keys.MODULE,
        "1_Pooling/config.json": keys.POOLING,
        "2_Normalize/config.json": keys.NORMALIZE,
        "adapter_config.json": keys.ADAPTER,
        "GGUF, `general.…`, `split.…`, `quantize.…`": keys.GGUF_GENERAL,
        "GGUF, `tokenizer.…`": keys.GGUF_TOKENIZER,
        **gguf,
    }


def page() -> str:
    """Return the tables as Markdown."""
    sections = (line for name, table in tables().items() for line in _section(name, table))
    return "\n".join([INTRODUCTION, *sections])


def _section(name: str, table: Table) -> Iterator[str]:
    """A heading, and a row for the keys that share a rule."""
    yield from (f"## {name}", "", "| key | is | why |", "| --- | --- | --- |")
    rows: dict[tuple[str, str], list[str]] = {}
    for key, rule in table.items():
        rows.setdefault((rule.kind, _reason(rule)), []).append(f"`{key}`")
    for (kind, reason), names in rows.items():
        yield f"| {', '.join(names)} | {kind} | {reason} |"
    yield ""


def _reason(rule: Rule) -> str:
    unless = ", ".join(f"`{json.dumps(value)}`" for value in rule.unless if value is not None)
    return f"{rule.why}; not where it is {unless}" if unless else rule.why


if __name__ == "__main__":
    print(page(), end="")
