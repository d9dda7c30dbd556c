"""What becomes of each key of a file that says how a model is to be used.

Every such file has a table: key -> ``Rule``. A key is

- *followed*: something here does what it says;
- *harmless*: it cannot change what the model computes, for the reason that the table gives;
- *noted*: it may matter to whoever uses the model, and is not followed: a word is said of it;
- *refused*: it asks for what nothing here does, unless it has a value that changes nothing.

A key that no table names might matter as well: a word is said of it, unless it is null. The tables
of config.json and of GGUF's model keys stand with the forms (``Form.keys``, ``Form.gguf_keys``),
those of all other files in ``checkpoint.keys``.
"""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal


@dataclass(frozen=True)
class Rule:
    """What becomes of one key.

    Args:
        kind: See above.
        why: The reason; of what is refused, the hint.
        unless: Values that change nothing, of a key that is noted or refused.
        inside: The rules of an object's own keys, where the value is an object.
    """

    kind: Literal["followed", "harmless", "noted", "refused"]
    why: str = ""
    unless: tuple[object, ...] = ()
    inside: "Table | None" = None


Table = Mapping[str, Rule]  # a key may be a pattern, such as *_token


def followed(*keys: str, inside: Table | None = None) -> Table:
    """Keys that something here does what they say."""
    return dict.fromkeys(keys, Rule("followed", inside=inside))


def harmless(why: str, *keys: str) -> Table:
    """Keys that cannot change what the model computes."""
    return dict.fromkeys(keys, Rule("harmless", why))


def noted(why: str, *keys: str, unless: tuple[object, ...] = (None,)) -> Table:
    """Keys of which a word is said."""
    return dict.fromkeys(keys, Rule("noted", why, unless))


def refused(why: str, *keys: str, unless: tuple[object, ...] = (None,)) -> Table:
    """Keys that are refused by name."""
    return dict.fromkeys(keys, Rule("refused", why, unless))


def refusal(table: Table, content: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    """Return the message and the hint of the first key that is refused, None where none is.

    Args:
        table: The rules of the file.
        content: The file's keys and values.
        where: The file, as messages name it.
    """
    for key, value in content.items():
        rule = rule_of(table, key)
        if rule is None:
            continue
        if rule.kind == "refused" and not _among(value, rule.unless):
            return f"{where}: {key} is {reprlib.repr(value)}", _hint(rule)
        inside = rule.inside if isinstance(value, Mapping) else None
        if inside is not None and (found := refusal(inside, value, f"{where}: {key}")):
            return found
    return None


def remarks(table: Table, content: Mapping[str, Any], where: str) -> Iterator[str]:
    """Say what a user must know of the keys that are not followed. Arguments as ``refusal``'s."""
    for key, value in content.items():
        rule = rule_of(table, key)
        if rule is None:
            if value is not None:
                yield f"{where}: {key} is not known here; it might change what the model computes"
        elif rule.kind == "noted" and not _among(value, rule.unless):
            yield f"{where}: {key} is {reprlib.repr(value)}: {rule.why}"
        elif rule.inside is not None and isinstance(value, Mapping):
            yield from remarks(rule.inside, value, f"{where}: {key}")


def rule_of(table: Table, key: str) -> Rule | None:
    """Return the rule of a key, by its name or by the first pattern that it fits."""
    if key in table:
        return table[key]
    patterns = (pattern for pattern in table if "*" in pattern and fnmatchcase(key, pattern))
    return next((table[pattern] for pattern in patterns), None)


def _among(value: object, values: tuple[object, ...]) -> bool:
    """Whether a value is one of ``values``; true is not 1."""
    return any(isinstance(value, bool) == isinstance(v, bool) and value == v for v in values)


def _hint(rule: Rule) -> str:
    allowed = ", ".join(map(repr, rule.unless))
    return f"{rule.why}; supported: {allowed}" if allowed else rule.why


CONFIG: Table = {  # keys that config.json may have whatever the form
    **followed("architectures", "model_type", "tokenizer_class", "quantization_config"),
    **followed("bos_token_id", "eos_token_id", "pad_token_id"),
    **harmless(
        "it names where the model comes from, or what wrote the file",
        *("_name_or_path", "name_or_path", "_commit_hash", "model_name", "finetuning_task"),
        *("transformers_version", "transformers.js_config", "_from_model_config"),
    ),
    **harmless(
        "weights are read as they are stored, and computed with in float32",
        *("dtype", "torch_dtype", "use_bfloat16"),
    ),
    **harmless(
        "it says what a call returns, or how it is carried out, and not what is computed",
        *("output_hidden_states", "output_attentions", "return_dict"),
        *("use_cache", "torchscript", "chunk_size_feed_forward", "tie_last_hidden_states"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
        *("experts_implementation", "tf_legacy_loss"),
    ),
    **harmless(
        "only training uses it",
        *("initializer_range", "gradient_checkpointing", "problem_type", "task_specific_params"),
    ),
    **harmless("no class of texts is computed", "id2label", "label2id", "num_labels"),
    **harmless("tokenizer.json puts it where it belongs", "sep_token_id"),
    **harmless(
        "how tokens are chosen is up to whoever generates",
        *("do_sample", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
        *("max_length", "min_length", "num_beams", "num_beam_groups", "diversity_penalty"),
        *("length_penalty", "early_stopping", "num_return_sequences", "no_repeat_ngram_size"),
        *("encoder_no_repeat_ngram_size", "exponential_decay_length_penalty"),
        *("output_scores", "return_dict_in_generate", "remove_invalid_values"),
    ),
    **refused(
        "tokens would be forced or forbidden while text is generated",
        *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "prefix"),
        *("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id"),
    ),
    **refused("heads were cut out of the model", "pruned_heads", unless=(None, {})),
    **refused(
        "its layers would differ in their configuration", "per_layer_config", unless=(None, {})
    ),
    **refused(
        "the model would attend to another one",
        *("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"),
        "cross_attention_hidden_size",
        unless=(None, False),
    ),
    **noted("code that comes with a checkpoint is never run", "auto_map"),
}
