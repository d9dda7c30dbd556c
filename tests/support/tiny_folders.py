"""Tiny random models of transformers, saved as folders, with a tokenizer where they take texts."""

import json
import string

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BERT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": False,
    **{f"{name}_token": token for name, token in SPECIAL.items()},
}


def random_model(kind, config, seed=0):
    """A model whose every part matters."""
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn(weight.shape))
    return model


def llama(folder, kind=transformers.LlamaForCausalLM, **config):
    """A Llama without a tokenizer."""
    random_model(kind, transformers.LlamaConfig(**LLAMA | config)).save_pretrained(folder)
    return folder


def bert(folder, kind=transformers.BertModel, **config):
    """A BERT with a cased tokenizer of letters."""
    random_model(kind, transformers.BertConfig(**BERT | config)).save_pretrained(folder)
    letters_tokenizer().save(str(folder / "tokenizer.json"))
    write(folder, tokenizer_config=TOKENIZER_CONFIG)
    return folder


def embedder(folder, **config):
    """A BERT that sentence-transformers pools by its mean."""
    bert(folder, **config)
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    write(folder, modules=MODULES, **{"1_Pooling/config": pooling})
    return folder


def letters_tokenizer(ends=True):
    """A WordPiece of single letters that keeps case; ends: whether it puts [CLS] and [SEP]."""
    pieces = [*SPECIAL.values(), *string.ascii_letters, *(f"##{c}" for c in string.ascii_letters)]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, ".", ":", "?"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    if ends:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return tokenizer


def write(folder, **files):
    """JSON files by stem; keys of an object are added to those of a file that is there."""
    for stem, content in files.items():
        path = folder / f"{stem}.json"
        if isinstance(content, dict) and path.exists():
            content = json.loads(path.read_text()) | content
        path.write_text(json.dumps(content))


def change_weights(folder, change):
    """Save what ``change`` makes of the tensors by name."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    changed = {name: tensor.contiguous() for name, tensor in change(tensors).items()}
    save_file(changed, path, metadata={"format": "pt"})
