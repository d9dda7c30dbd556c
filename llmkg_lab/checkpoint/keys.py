"""The tables of all files around the weights but config.json: see ``models.keys``.

config.json's and GGUF's model keys depend on the form, and stand with it in ``models``.
"""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from llmkg_lab.checkpoint.base import CheckpointError
from llmkg_lab.models.keys import Rule, Table, followed, harmless, noted, refusal, refused, remarks

CHOICE = "how tokens are chosen is up to whoever generates"
ORIGIN = "it names where the file comes from, or what wrote it"

GENERATION: Table = {
    **followed("bos_token_id", "eos_token_id", "pad_token_id"),
    **followed("do_sample", "temperature", "top_k", "top_p", "repetition_penalty"),
    **harmless(ORIGIN, "transformers_version", "_from_model_config", "_commit_hash"),
    **harmless(
        CHOICE,
        *("typical_p", "min_p", "top_h", "epsilon_cutoff", "eta_cutoff", "penalty_alpha"),
        *("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping"),
        *("num_return_sequences", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        *("encoder_repetition_penalty", "guidance_scale", "exponential_decay_length_penalty"),
        *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time"),
        *("renormalize_logits", "remove_invalid_values", "dola_layers", "low_memory"),
        *("assistant_*", "num_assistant_tokens*", "is_assistant", "prompt_lookup_num_tokens"),
        *("max_matching_ngram_size", "target_lookbehind", "speculation_type", "use_mtp"),
        *("token_healing", "constraints", "force_words_ids", "custom_generate"),
    ),
    **harmless(
        "it says what a call returns, or how it is carried out",
        *("use_cache", "cache_*", "max_cache_len", "compile_config", "disable_compile"),
        *("continuous_batching_config", "prefill_chunk_size", "return_legacy_cache"),
        *("output_attentions", "output_hidden_states", "output_logits", "output_scores"),
        *("return_dict_in_generate", "return_token_timestamps"),
    ),
    **refused(
        "tokens would be forced, forbidden or marked while text is generated",
        *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias"),
        *("forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids"),
        *("decoder_start_token_id", "watermarking_config"),
    ),
    **noted("no text ends a generation unless it is asked for", "stop_strings"),
}

TOKENIZER_CONFIG: Table = {
    **followed("tokenizer_class", "chat_template", "model_max_length", "model_input_names"),
    **followed("truncation_side", "added_tokens_decoder", "add_bos_token", "add_eos_token"),
    **followed("additional_special_tokens", "extra_special_tokens"),
    **followed("add_prefix_space", "legacy", "from_slow"),
    **followed("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
    **followed("clean_up_tokenization_spaces"),
    **harmless("no token comes from padding, which the mask leaves out", "padding_side"),
    **harmless("no token comes from padding, which the mask leaves out", "pad_to_multiple_of"),
    **harmless("no token comes from padding, which the mask leaves out", "pad_token_type_id"),
    **harmless("a caller of transformers asks for it", "max_length", "stride", "padding"),
    **harmless("a caller of transformers asks for it", "truncation_strategy", "truncation"),
    **harmless(
        ORIGIN,
        *("name_or_path", "_commit_hash", "tokenizer_file", "vocab_file", "merges_file"),
        *("special_tokens_map_file", "tokenizer_type", "processor_class", "is_local", "backend"),
        *("local_files_only", "use_fast", "init_inputs", "transformers_version", "device_map"),
    ),
    **harmless(
        "only tokenizers in Python use it, and tokenizer.json says how it tokenizes",
        *("do_basic_tokenize", "never_split", "sp_model_kwargs", "errors", "trim_offsets"),
        *("spaces_between_special_tokens", "do_word_tokenize", "word_tokenizer_type"),
        *("subword_tokenizer_type", "unk_id", "keep_accents", "remove_space"),
    ),
    **harmless("no message is added to a conversation", "use_default_system_prompt"),
    **harmless("a text is given as it comes", "response_template", "chat_control_tokens"),
    **refused(
        "special tokens in a text would be split", "split_special_tokens", unless=(None, False)
    ),
    **refused("texts would be split otherwise", "fix_mistral_regex", unless=(None, False)),
    **noted("code that comes with a checkpoint is never run", "auto_map"),
    "*_token": Rule("followed"),
}
SPECIAL_TOKENS: Table = {
    "*_token": Rule("followed"),
    **followed("additional_special_tokens", "extra_special_tokens"),
}
ADDED_TOKENS: Table = {"*": Rule("followed")}  # every key is a token

TOKENIZER: Table = {  # tokenizer.json, which the tokenizers library runs
    **followed("model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"),
    **followed("truncation"),  # its direction
    **harmless("no token comes from padding, which the mask leaves out", "padding"),
    **harmless("the library reads one format", "version"),
}
ADDED_TOKEN: Table = {
    **followed("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"),
}
KINDS: Mapping[str, tuple[str, ...]] = {  # the steps that the library has, by part
    "model": ("BPE", "Unigram", "WordLevel", "WordPiece"),
    "normalizer": (
        *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt"),
        *("Precompiled", "Prepend", "Replace", "Sequence", "Strip", "StripAccents"),
    ),
    "pre_tokenizer": (
        *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength"),
        *("Metaspace", "Punctuation", "Sequence", "Split", "UnicodeScripts", "Whitespace"),
        "WhitespaceSplit",
    ),
    "post_processor": (
        *("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"),
    ),
    "decoder": (
        *("BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace"),
        *("Sequence", "Strip", "WordPiece"),
    ),
}
STEPS = ("normalizers", "pretokenizers", "processors", "decoders")  # what a Sequence has inside

SENTENCE_BERT: Table = {  # sentence_bert_config.json: the encoder of sentence-transformers
    **followed("max_seq_length", "do_lower_case"),
    **harmless("how runs are put together changes no vector", "unpad_inputs"),
    **refused(
        "the encoder would do something else besides",
        "transformer_task",
        unless=(None, "feature-extraction", "sequence-classification"),
    ),
    **refused(
        "the encoder would do something else besides",
        "module_output_name",
        unless=(None, "token_embeddings", "scores"),
    ),
    **refused(
        "the encoder would do something else besides",
        "modality_config",
        unless=(
            None,
            {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            {"text": {"method": "forward", "method_output_name": "logits"}},
        ),
    ),
    **refused(
        "the model or its tokenizer would be loaded otherwise",
        *("processing_kwargs", "model_kwargs", "model_args", "processor_kwargs"),
        *("tokenizer_args", "config_kwargs", "config_args"),
        unless=(None, {}),
    ),
    **refused(
        "the model or its tokenizer would be loaded otherwise",
        *("tokenizer_name_or_path", "query_length", "document_length", "query_expansion"),
    ),
}
SENTENCE_TRANSFORMERS: Table = {  # config_sentence_transformers.json: all of its modules
    **followed("prompts", "default_prompt_name", "truncate_dim"),
    **refused(
        "supported are embedders of one vector and cross-encoders",
        "model_type",
        unless=(None, "SentenceTransformer", "CrossEncoder"),
    ),
    **harmless(ORIGIN, "__version__", "requirements"),
    **harmless("how vectors are compared is up to whoever compares them", "similarity_fn_name"),
    **harmless("scores are given as they are, before any function of them", "activation_fn"),
    **harmless("everything is computed in float32", "keep_in_fp32_modules"),
}
MODULE: Table = {  # of each module in modules.json
    **followed("type", "path"),
    **harmless("modules follow each other as they are listed", "idx", "name"),
    **refused("a module would ask for options", "kwargs", unless=(None, [])),
}
SWITCHES = {  # since 5.4 one key names the mode; before, each mode had a switch of its own
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING: Table = {
    **followed("pooling_mode", *SWITCHES, "include_prompt"),
    **harmless("the weights say it", "embedding_dimension", "word_embedding_dimension"),
}
NORMALIZE: Table = refused(
    "another vector would be normalized",
    *("module_input_name", "module_output_name"),
    unless=(None, "sentence_embedding"),
)
QUANTIZATION: Table = {  # config.json's quantization_config
    **followed("quant_method"),
    "*": Rule("harmless", "a checkpoint whose weights it describes is refused by its method"),
}
ADAPTER: Table = {"*": Rule("refused", "merge the adapter into the model: peft does it")}

GGUF_GENERAL: Table = {
    **followed("general.architecture", "general.alignment", "split.count"),
    **harmless("which tensors lie in one file", "split.no", "split.tensors.count"),
    **harmless(CHOICE, "general.sampling.*"),
    **refused("the file is no model", "general.type", unless=("model",)),
    **harmless(ORIGIN, "general.*"),
    **harmless("it says how the weights were rounded, which they are", "quantize.*"),
}
GGUF_TOKENIZER: Table = {
    **followed(*(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type"))),
    **followed(*(f"tokenizer.ggml.{key}" for key in ("scores", "merges", "add_space_prefix"))),
    **followed("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"),
    **followed("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
    **followed("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"),
    **followed("tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"),
    **followed("tokenizer.ggml.seperator_token_id", "tokenizer.ggml.cls_token_id"),
    **followed("tokenizer.ggml.mask_token_id", "tokenizer.chat_template"),
    **harmless("the table's rows say it", "tokenizer.ggml.token_type_count"),
    **harmless("a WordPiece tokenizer ends a text with it", "tokenizer.ggml.add_sep_token"),
    **harmless(
        "only Unigram tokenizers use it, which are refused",
        *("tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap"),
    ),
    **harmless("another form of the same tokenizer", "tokenizer.huggingface.json"),
    **harmless(
        "only a request to fill a gap uses it",
        *("tokenizer.ggml.fim_*", "tokenizer.ggml.prefix_token_id"),
        *("tokenizer.ggml.suffix_token_id", "tokenizer.ggml.middle_token_id"),
    ),
    **refused("the tokenizer is of another kind", "tokenizer.rwkv.world"),
    **noted(
        "conversations follow the template without a name",
        *("tokenizer.chat_templates", "tokenizer.chat_template.*"),
    ),
}


def check(table: Table, content: Mapping[str, Any], where: object) -> Iterator[str]:
    """Say what a user must know of a file's keys. Raises CheckpointError on one that is refused."""
    if found := refusal(table, content, str(where)):
        raise CheckpointError(*found)
    yield from remarks(table, content, str(where))


def check_ids(content: Mapping[str, Any], where: object) -> None:
    """Raise CheckpointError where the id of a special token is no id, or no list of them."""
    for name in ("bos", "eos", "pad"):
        ids = content.get(f"{name}_token_id")
        for index in [] if ids is None else ids if isinstance(ids, list) else [ids]:
            if not isinstance(index, int) or isinstance(index, bool):
                raise CheckpointError(
                    f"{where}: {name}_token_id is {reprlib.repr(ids)}, which is no token's id"
                )


def check_tokenizer(spec: Mapping[str, Any], where: object) -> Iterator[str]:
    """The same for tokenizer.json, with its added tokens and the kinds of its steps."""
    yield from check(TOKENIZER, spec, where)
    for token in _objects(spec, "added_tokens", where):
        yield from check(ADDED_TOKEN, token, f"{where}: added_tokens")
    for part, kinds in KINDS.items():
        for kind in _kinds(spec.get(part), where):
            if kind not in kinds:
                raise CheckpointError(
                    f"{where}: {part} of the kind {kind!r}", f"supported are {', '.join(kinds)}"
                )


def _kinds(step: Any, where: object) -> Iterator[object]:
    """The kinds of a part and of the steps inside it; older models say none."""
    if isinstance(step, Mapping):
        if step.get("type") is not None:
            yield step["type"]
        for name in STEPS:
            for inner in _objects(step, name, where):
                yield from _kinds(inner, where)


def _objects(content: Mapping[str, Any], key: str, where: object) -> list[Mapping[str, Any]]:
    """The list of objects under a key, by default none. Raises CheckpointError on another value."""
    values = content.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise CheckpointError(f"{where}: {key} is {reprlib.repr(values)}, not a list of objects")
    return values
