"""A small original of each family of the roster, in which every setting matters."""

import io
import json

import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion import to_gguf
from llmkg_lab.models.openelm import OpenELMForm

WORDS = ("the", "people", "of", "state", "said", "that", "two", "men", "were", "there", "1984")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {  # what is made here: the roster's family, task, architecture and corpus
    "smollm": ("smollm", "text-generation", "llama", "wikitext2"),
    "tinyllama": ("tinyllama", "text-generation", "llama", "wikitext2"),
    "openelm": ("openelm", "text-generation", "openelm", "wikitext2"),
    "gguf": ("smollm", "text-generation", "llama", "wikitext2"),
    "embedder": ("minilm", "sentence-embedding", "bert", "sick"),
    "multilingual": ("minilm", "feature-extraction", "bert", "sick"),
    "ranker": ("minilm", "text-ranking", "bert", "sick"),
}
LLAMA = {
    "vocab_size": 340,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "rms_norm_eps": 0.3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPENELM = {
    "model_type": "openelm",
    "architectures": ["OpenELMForCausalLM"],
    "activation_fn_name": "swish",
    "normalization_layer_name": "rms_norm",
    "ffn_with_glu": True,
    "normalize_qk_projections": True,
    "share_input_output_layers": True,
    "vocab_size": 340,
    "model_dim": 32,
    "head_dim": 16,
    "num_transformer_layers": 2,
    "num_query_heads": [2, 4],
    "num_kv_heads": [1, 2],
    "ffn_multipliers": [0.5, 1.5],
    "ffn_dim_divisor": 16,
    "max_context_length": 256,
    "rope_max_length": 512,
    "rope_freq_constant": 20,
}
BERT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "layer_norm_eps": 0.3,
}


def make(root):
    """Put all of them into a folder, by the names of ``FAMILIES``."""
    torch.manual_seed(0)
    _smollm(root / "smollm", tokenizer_class="PreTrainedTokenizerFast")
    digits = pre_tokenizers.Digits(individual_digits=True)
    _change_tokenizer(root / "smollm", lambda level: pre_tokenizers.Sequence([digits, level]))
    _save(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)), root / "tinyllama")
    _write_llamas_tokenizer(root / "tinyllama", legacy=False)
    _openelm(root / "openelm")
    _smollm(root / "plain", tokenizer_class="GPT2Tokenizer")  # transformers reads it from GGUF
    to_gguf.export(open_checkpoint(root / "plain"), "F32", root / "export")
    (root / "gguf").mkdir()
    (root / "export" / "model-F32.gguf").rename(root / "gguf" / "model.gguf")
    config = transformers.BertConfig(**BERT, num_labels=1)
    _save(transformers.BertModel(config), root / "embedder")
    _write_berts_tokenizer(root / "embedder")
    _write_modules(root / "embedder")
    _save(transformers.BertModel(config), root / "multilingual")
    _write_xlmrs_tokenizer(root / "multilingual")
    _save(transformers.BertForSequenceClassification(config), root / "ranker")
    _write_berts_tokenizer(root / "ranker")


def _smollm(folder, **said):
    config = transformers.LlamaConfig(**LLAMA)
    _save(transformers.LlamaForCausalLM(config), folder)
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    core.post_processor = processors.TemplateProcessing(
        "<|endoftext|> $A", None, [("<|endoftext|>", 0)]
    )
    said |= {"chat_template": CHAT, "add_bos_token": True}
    said |= {"bos_token": special[0], "eos_token": special[0]}
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def _change_tokenizer(folder, split):
    """Split texts otherwise than the tokenizer was trained: ``split`` makes one way of another."""
    path = str(folder / "tokenizer.json")
    core = tokenizers.Tokenizer.from_file(path)
    core.pre_tokenizer = split(core.pre_tokenizer)
    core.save(path)


def _openelm(folder):
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in OpenELMForm.read(OPENELM).tensors():
        drawn = rng.standard_normal(shape, np.float32)
        tensors[name] = 1 + 0.3 * drawn if len(shape) == 1 else 0.3 * drawn
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(OPENELM))
    _write_llamas_tokenizer(folder, legacy=True)


def _save(model, folder):
    """Save a model whose weights are large enough for every part to matter."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    model.save_pretrained(folder)


def _write_llamas_tokenizer(folder, **config):
    pieces = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 300}
    (folder / "tokenizer.model").write_bytes(_pieces(**pieces))
    said = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "unk_token": "<unk>"}
    said |= {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said | config))


def _write_xlmrs_tokenizer(folder):
    model = _pieces(model_type="unigram", vocab_size=40, hard_vocab_limit=False)
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    said = {"tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    said |= {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    said |= {"mask_token": "<mask>", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def _pieces(**options):
    """A SentencePiece model of the words."""
    model = io.BytesIO()
    lines = [" ".join(np.roll(WORDS, i)) for i in range(len(WORDS))]
    settings = {"num_threads": 1, "minloglevel": 2, "normalization_rule_name": "identity"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **settings, **options
    )
    return model.getvalue()


def _write_berts_tokenizer(folder):
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)


def _write_modules(folder):
    """Pool the first token, and normalize."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    content = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(content))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
