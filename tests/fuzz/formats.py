"""The formats that are read: whole files of each, their changes, and who reads them."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import tokenizers
import yaml
from fuzz import containers
from fuzz.mutations import mutated, mutated_bytes, mutated_json, plain
from safetensors.numpy import save_file
from support import tiny_checkpoints

from llmkg_lab.artifact import MANIFEST, Artifact, verify
from llmkg_lab.base import files as whole_files
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.machine import Profile
from llmkg_lab.batch import jobs, notebook
from llmkg_lab.checkpoint import Checkpoint, keys, open_checkpoint
from llmkg_lab.conversion.to_gguf import TYPES, export
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.models import FORMS as MODELS
from llmkg_lab.models import form_of, rope
from llmkg_lab.results import registry
from llmkg_lab.results.recommendation import candidates
from llmkg_lab.results.registry import Registry
from llmkg_lab.results.result import Result, results
from llmkg_lab.roster import catalog
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig, generate_text
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme

Changed = Callable[[Random, str, bytes], bytes]
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                     "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}  # fmt: skip
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "id2label": {"0": "LABEL_0"},
}
OPENELM = {
    "model_type": "openelm",
    "architectures": ["OpenELMForCausalLM"],
    "vocab_size": 64,
    "model_dim": 32,
    "head_dim": 16,
    "num_transformer_layers": 2,
    "num_query_heads": [4, 4],
    "num_kv_heads": [2, 2],
    "num_gqa_groups": 2,
    "qkv_multipliers": [1.0, 1.0],
    "ffn_multipliers": [1.0, 1.5],
    "ffn_dim_divisor": 16,
    "max_context_length": 64,
    "rope_freq_constant": 10000,
    "normalize_qk_projections": True,
    "share_input_output_layers": True,
    "activation_fn_name": "swish",
    "ffn_with_glu": True,
}
RTN, SPECIAL = Scheme.parse("int4-rtn"), ["<unk>", "<s>", "</s>"]


@dataclass(frozen=True)
class Format:
    """One format of which files may come from anywhere.

    Args:
        make: Writes whole files into a folder.
        mutated: The files of which one is changed, relative to the folder.
        mutate: Makes the changed content: (chance, file, content).
        use: Does with the folder what users do: (folder, where artifacts go, chance).
    """

    make: Callable[[Path], None]
    mutated: tuple[str, ...]
    mutate: Changed
    use: Callable[[Path, Path, Random], None]


def _json(words: tuple) -> Changed:
    return lambda chance, _, content: mutated_json(chance, content, words)


def _binary(change: Callable[[Random, bytes], bytes]) -> Changed:
    return lambda chance, _, content: change(chance, content)


# Checkpoints


def checkpoint(folder: Path, config: dict, tokenizer: str = "") -> None:
    """A checkpoint of random weights, with a tokenizer where one is named."""
    chance = np.random.default_rng(0)
    shapes = dict(form_of(config).tensors())
    tensors = {n: chance.normal(0, 0.5, s).astype(np.float32) for n, s in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        (folder / "tokenizer.json").write_text(TOKENIZERS[tokenizer]().to_str())


def _convert(folder: Path, out: Path, chance: Random) -> None:
    """Convert it; what is said to be whole is, and one in ten is run."""
    _converted(open_checkpoint(folder), out, chance)


def _convert_last(folder: Path, out: Path, chance: Random) -> None:
    _convert(folder / _changed_last(folder), out, chance)


def _config_use(folder: Path, out: Path, chance: Random) -> None:
    """Weights that are no one's doing make finite numbers, whatever the config says of them."""
    _converted(open_checkpoint(folder / _changed_last(folder)), out, chance, finite=True)


def _several(**makes: Callable[[Path], None]) -> Callable[[Path], None]:
    """What makes a folder of each name."""

    def make(folder: Path) -> None:
        for name, make_it in makes.items():
            (folder / name).mkdir()
            make_it(folder / name)

    return make


def _tensors(chance: Random, name: str, content: bytes) -> bytes:
    if name.endswith(".json"):
        return mutated_json(chance, content)
    return containers.safetensors(chance, content)


def _converted(opened: Checkpoint, out: Path, chance: Random, finite: bool = False) -> None:
    artifact = convert(opened, RTN, out)
    assert verify(out) == []
    if chance.random() < 0.1:
        values = _run(artifact)
        assert not finite or np.isfinite(values).all()


def _run(artifact: Artifact) -> np.ndarray:
    if artifact.task == "text-generation":
        logits = Decoder(artifact, 1).prefill([0, 1])
        assert logits.shape == (artifact.vocab_size,)
        return logits
    if (artifact.folder / "tokenizer.json").exists() and artifact.task != "text-ranking":
        return Embedder(artifact, 1).embed(["a b"])
    return np.zeros(0)


def _export(folder: Path, out: Path, chance: Random) -> None:
    export(open_checkpoint(folder), chance.choice(list(TYPES)), out)
    assert verify(out) == []
    again = open_checkpoint(next(out.glob("*.gguf")))
    assert again.warnings is not None


def _words(*tables: dict) -> tuple:
    """The keys of tables, without patterns, and values that mean something to some key."""
    names = [key for table in tables for key in table if "*" not in key]
    return (*names, "linear", "dynamic", "yarn", "llama3", "default", "silu", "gelu",
            "BertForSequenceClassification", "BertForMaskedLM", "LlamaModel")  # fmt: skip


CONFIG_WORDS = _words(*(form.keys for form in MODELS.values()), rope.KEYS)


def _gguf(folder: Path) -> None:
    tiny_checkpoints.write_gguf(folder, add=_add_tokenizer)


def _add_tokenizer(writer) -> None:
    tokens = [*SPECIAL, "<0x41>", "▁", "a", "b", "ab", "▁a", *(f"t{i}" for i in range(31))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types([2, 3, 3, 6, *[1] * 36])
    writer.add_token_scores([-float(i) for i in range(40)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")


def _gguf_use(folder: Path, out: Path, chance: Random) -> None:
    opened = open_checkpoint(folder)
    opened.sidecars()
    _converted(opened, out, chance)


# Tokenizers


def word_level() -> tokenizers.Tokenizer:
    """Words, split at spaces."""
    vocabulary = {**{token: i for i, token in enumerate(SPECIAL)}, "a": 3, "b": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2's, of the letters a and b."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5, "Ġ": 6}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b")]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """Llama's, with bytes as fall-back."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁a"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = tokenizers.models.BPE(
        vocabulary, [("a", "b"), ("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    made.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(SPECIAL)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made


def unigram() -> tokenizers.Tokenizer:
    """SentencePiece's other kind, as E5 has it."""
    pieces = [("<s>", 0.0), ("<unk>", 0.0), ("</s>", 0.0), ("▁", -1.0), ("a", -2.0), ("▁a", -1.5)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 1, False))
    made.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.NFKC(),
            tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    return made


def word_piece() -> tokenizers.Tokenizer:
    """BERT's."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(pieces[:5])
    return made


TOKENIZERS = {
    "word_level": word_level,
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "unigram": unigram,
    "word_piece": word_piece,
}
TOKENIZER_WORDS = tuple(
    {*keys.TOKENIZER, *keys.ADDED_TOKEN, *(kind for kinds in keys.KINDS.values() for kind in kinds)}
)


def _tokenizer_files(folder: Path) -> None:
    """Every kind beside one checkpoint, each to be put in its place."""
    checkpoint(folder, LLAMA | {"vocab_size": 300})
    for name, made in TOKENIZERS.items():
        (folder / f"{name}.json").write_text(made().to_str())


def _tokenizer_use(folder: Path, out: Path, chance: Random) -> None:
    """Read the tokenizer as a conversion and as the runtime do, and use it."""
    mine = min(TOKENIZERS, key=lambda name: -(folder / f"{name}.json").stat().st_mtime_ns)
    own = folder / "tokenizer.json"
    shutil.copyfile(folder / f"{mine}.json", own)
    try:
        sidecars = open_checkpoint(folder).sidecars()
        open_checkpoint(folder).warnings  # noqa: B018
        tokenizer = Tokenizer.from_folder(folder)
        for text in ("", "a b ab", "Ünï\u0301 \x00 <s>[SEP] " * 3):
            tokenizer.decode(tokenizer.encode(text))
            tokenizer.encode_batch([text, (text, text)], 16)
        assert json.loads(sidecars["tokenizer.json"])
    finally:
        own.unlink()


SIDE_FILES = {
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 64,
        "add_bos_token": True,
        "added_tokens_decoder": {"1": {"content": "<s>", "special": True}},
        "clean_up_tokenization_spaces": False,
        "truncation_side": "right",
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}",
        "extra_special_tokens": {"image_token": "<s>"},
        "model_input_names": ["input_ids", "attention_mask"],
    },
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
    "added_tokens.json": {"<s>": 1},
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2], "temperature": 0.7,
                               "top_k": 5, "do_sample": True, "max_length": 20},
}  # fmt: skip
SIDE_WORDS = _words(keys.GENERATION, keys.TOKENIZER_CONFIG, keys.SPECIAL_TOKENS)


def _side_files(folder: Path) -> None:
    checkpoint(folder, LLAMA, "byte_level")
    for name, content in SIDE_FILES.items():
        (folder / name).write_text(json.dumps(content))


def _side_use(folder: Path, out: Path, chance: Random) -> None:
    artifact = convert(open_checkpoint(folder), RTN, out)
    if chance.random() < 0.07:
        _answer(out)
        with contextlib.suppress(LabError):  # what a model lacks is not what is tried
            Tokenizer.from_folder(out).chat([{"role": "user", "content": "a"}])
    assert verify(artifact.folder) == []


EMBEDDER = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling",
         "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize",
         "type": "sentence_transformers.models.Normalize"},
    ],
    "config_sentence_transformers.json": {
        "prompts": {"query": "a ", "document": ""}, "default_prompt_name": "query",
        "truncate_dim": 16, "similarity_fn_name": "cosine", "model_type": "SentenceTransformer"},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True},
    "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True,
                              "include_prompt": True},
    "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": 64,
                              "do_lower_case": True},
}  # fmt: skip


def _embedder(folder: Path) -> None:
    checkpoint(folder, BERT, "word_piece")
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    for name, content in EMBEDDER.items():
        (folder / name).write_text(json.dumps(content))


EMBEDDER_WORDS = _words(keys.MODULE, keys.SENTENCE_TRANSFORMERS, keys.SENTENCE_BERT, keys.POOLING)


# What is made here


def _artifact(folder: Path) -> None:
    """A decoder's artifact, and an embedder's beside it."""
    source = folder / "source"
    for name, make in (("decoder", _side_files), ("embedder", _embedder)):
        source.mkdir()
        make(source)
        convert(open_checkpoint(source), RTN, folder / name)
        shutil.rmtree(source)


def _manifest_use(folder: Path, out: Path, chance: Random) -> None:
    changed = folder / _changed_last(folder)
    verify(changed)
    artifact = Artifact.open(changed)
    assert artifact.manifest.cautions is not None
    assert artifact.bits_per_weight >= 0
    if chance.random() < 0.1:
        _answer(changed)


def _changed_last(folder: Path) -> str:
    """The name of the folder of which a file was written last."""
    last = max(folder.rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    return last.relative_to(folder).parts[0]


def _answer(folder: Path) -> None:
    backend = open_backend(folder, threads=1)
    if backend.task == "text-generation":
        tokenizer, few = Tokenizer.from_folder(folder), GenerationConfig(max_tokens=2)
        list(generate_text(backend.decoder(), tokenizer, "a b", few))
    else:
        backend.embed(["a b"])


def _signed_use(folder: Path, out: Path, chance: Random) -> None:
    """Whoever changes a file can change its hash too: what is opened is as bad as it can be."""
    changed = folder / _changed_last(folder)
    problems = verify(changed)
    path = changed / MANIFEST
    before = path.read_bytes()
    manifest = json.loads(before)
    for file, entry in manifest["files"].items():
        there = changed / file
        true = {"bytes": there.stat().st_size, "sha256": whole_files.sha256(there)}
        assert (true == entry) is not any(said.startswith(f"{file} ") for said in problems)
        manifest["files"][file] = true
    path.write_text(json.dumps(manifest))
    try:
        _answer(changed)
    finally:
        path.write_bytes(before)


ARTIFACT_FILES = tuple(
    f"{name}/{file}"
    for name, files in {
        "decoder": ("config.json", "tokenizer.json", "tokenizer_config.json",
                    "generation_config.json", "genai_config.json", "onnx/model_q4.onnx",
                    "onnx/model_q4.onnx_data"),
        "embedder": ("config.json", "tokenizer.json", "tokenizer_config.json",
                     "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"),
    }.items()
    for file in files
)  # fmt: skip


def _artifact_change(chance: Random, name: str, content: bytes) -> bytes:
    if name.endswith(".json"):
        return mutated_json(chance, content, CONFIG_WORDS + SIDE_WORDS)
    return mutated_bytes(chance, content)


STORED = Path(__file__).parents[1] / "results" / "data"
VARIANT = "smollm/smollm2_135m_instruct"


RESULTS = (f"{VARIANT}/result.json", "registry.json", f"{VARIANT}/failed.ipynb")


def _results(folder: Path) -> None:
    (folder / VARIANT).mkdir(parents=True)
    _parameters(folder / "params")
    shutil.copy(STORED / "result-decoder.json", folder / VARIANT / "result.json")
    shutil.copy(next(STORED.glob("registry*.json")), folder / "registry.json")
    failed = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    notebook.record_failure(failed, notebook.Failure(3, "convert", "it failed"))
    (folder / VARIANT / "failed.ipynb").write_text(json.dumps(failed))


def _profile() -> Profile:
    """The machine on which the stored result was measured."""
    stored = json.loads((STORED / "result-decoder.json").read_bytes())
    cpu = next(iter(stored["schemes"].values()))["conditions"]["cpu"]
    return Profile(cpu, 2, 2, 2, (), 1 << 35, 1 << 35, (), 10.0)


def _results_use(folder: Path, out: Path, chance: Random) -> None:
    """What the commands run and list read; a broken result is another's affair, never theirs."""
    os.environ["LLMKG_LAB_PARAMS"] = str(folder / "params")
    built, _ = registry.build(folder)
    assert built.models == {}  # its artifacts are not there
    list(results(folder))
    if chance.random() < 0.2:  # each reads the roster, which takes most of the time
        list(candidates(folder, _profile()))
        jobs.apart(folder, catalog.find_variant(VARIANT.split("/")[1]))
    jobs.last_state(folder / VARIANT)
    notebook.run_of(folder / VARIANT / "failed.ipynb")
    notebook.failure(folder / VARIANT / "failed.ipynb")
    Registry.read(folder)
    Result.find(folder / VARIANT)


PARAMETERS = ("defaults.yaml", f"{VARIANT}.yaml", "smollm/alias.yaml")
DEFAULT = {
    "schemes": ["fp32", "int4"],
    "limits": {"fp32": {"kl_mean": 0.1}, "budget": {"kl_mean": 2.0}},
    "targets": {"int4": {"perplexity_ratio": 1.05}},
    "evaluation": {"corpora": ["wikitext2"], "tokens": 2048, "prompts": ["Once"]},
}
OWN = {
    "title": "Own",
    "tier": 3,
    "task": "text-generation",
    "architecture": "llama",
    "license": "mit",
    "description": "x",
    "sources": [
        {"hub": "a/b", "revision": "main"},
        {"package": "a==1", "path": "b/c"},
        {"local": "../a"},
    ],
    "expect": {"parameters": 10},
    "schemes": ["int4-s16-gptq-e8b64sym", "budget:100MB"],
    "limits": {"budget": {"kl_mean": 1.0}},
    "evaluation": {"window": 64},
    "chat_template": "{{ messages }}",
}
ALIAS = {"title": "Alias", "tier": 2, "description": "x", "alias_of": "smollm2_135m_instruct"}


def _parameters(folder: Path) -> None:
    """A roster of one variant and its alias."""
    defaults = dict.fromkeys(catalog.TASKS, DEFAULT)
    for name, content in zip(PARAMETERS, (defaults, OWN, ALIAS), strict=True):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(yaml.safe_dump(content))


YAML = (
    "&a [*a]", "[" * 600, "!!python/object:os.system x", "{a: 1, a: 2}", "\t", "2001-01-01",
    "? [1]", "1:30", "0o777", ".inf", "!!binary aGk=", "!!set {a}", "<<: 3", "*x", "%YAML 9",
    "--- 1\n--- 2",
    "&a {b: &b [x, x, x, x, x, x, x, x, x], c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b],"
    " d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c], e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d],"
    " f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e], g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f],"
    " h: &h [*g, *g, *g, *g, *g, *g, *g, *g, *g], i: &i [*h, *h, *h, *h, *h, *h, *h, *h, *h]}",
)  # fmt: skip
PARAMETER_WORDS = ("hub", "package", "local", "path", "revision", "alias_of", "limits", "targets",
                   "schemes", "int4", "int8-sym", "budget:100MB", "kl_mean", "cosine_mean",
                   "expect", "tokenizer_source", "chat_template", "evaluation", "../x")  # fmt: skip


def _yaml(chance: Random, name: str, content: bytes) -> bytes:
    kind = chance.random()
    if kind < 0.15:
        return mutated_bytes(chance, content)
    if kind < 0.35:  # YAML's own in the place of a value
        lines = content.decode().splitlines()
        at = chance.randrange(len(lines))
        lines[at] = lines[at].partition(":")[0] + ": " + chance.choice(YAML)
        return "\n".join(lines).encode()
    document = plain(mutated(chance, yaml.safe_load(content), PARAMETER_WORDS))
    return yaml.safe_dump(document, allow_unicode=True).encode(errors="surrogatepass")


def _parameters_use(folder: Path, out: Path, chance: Random) -> None:
    for variant in catalog.roster(folder).values():
        for scheme in variant.schemes:
            variant.limits_for(scheme)
            variant.targets_for(scheme)
        assert [str(source) for source in variant.sources]


def _export_change(chance: Random, name: str, content: bytes) -> bytes:
    if name == "model.safetensors":
        return containers.safetensors(chance, content)
    return mutated_json(chance, content, CONFIG_WORDS + SIDE_WORDS + TOKENIZER_WORDS)


def _export_files(folder: Path) -> None:
    checkpoint(folder, LLAMA | {"rope_scaling": None, "vocab_size": 300}, "sentencepiece")
    for name, content in SIDE_FILES.items():
        (folder / name).write_text(json.dumps(content))


EXPORTED = ("config.json", "tokenizer.json", "tokenizer.json", *SIDE_FILES, "model.safetensors")
SHARDED = ("sharded/model.safetensors.index.json", "sharded/one.safetensors")
FORMATS = {
    "safetensors": Format(
        _several(
            whole=lambda folder: checkpoint(folder, LLAMA), sharded=tiny_checkpoints.write_sharded
        ),
        ("whole/model.safetensors", "whole/model.safetensors", *SHARDED),
        _tensors,
        _convert_last,
    ),
    "gguf": Format(_gguf, ("model.gguf",), _binary(containers.gguf_file), _gguf_use),
    "pytorch": Format(
        _several(zip=tiny_checkpoints.write_pickle, old=tiny_checkpoints.write_old_pickle),
        ("zip/pytorch_model.bin", "zip/pytorch_model.bin", "old/pytorch_model.bin"),
        _binary(containers.pickle),
        _convert_last,
    ),
    "config": Format(
        _several(
            llama=lambda folder: checkpoint(folder, LLAMA),
            bert=lambda folder: checkpoint(folder, BERT, "word_piece"),
            openelm=lambda folder: checkpoint(folder, OPENELM),
        ),
        ("llama/config.json", "bert/config.json", "openelm/config.json"),
        _json(CONFIG_WORDS),
        _config_use,
    ),
    "tokenizer": Format(
        _tokenizer_files,
        tuple(f"{name}.json" for name in TOKENIZERS),
        _json(TOKENIZER_WORDS),
        _tokenizer_use,
    ),
    "side-files": Format(_side_files, tuple(SIDE_FILES), _json(SIDE_WORDS), _side_use),
    "sentence-transformers": Format(_embedder, tuple(EMBEDDER), _json(EMBEDDER_WORDS), _convert),
    "manifest": Format(
        _artifact,
        ("decoder/manifest.json", "embedder/manifest.json"),
        _json(()),
        _manifest_use,
    ),
    "artifact": Format(_artifact, ARTIFACT_FILES, _artifact_change, _signed_use),
    "results": Format(_results, RESULTS, _json(()), _results_use),
    "parameters": Format(_parameters, PARAMETERS, _yaml, _parameters_use),
    "gguf-export": Format(_export_files, EXPORTED, _export_change, _export),
}
