"""genai_config.json, by which onnxruntime-genai opens an artifact folder as it is."""

import json
from pathlib import Path

from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.models.llama import LlamaForm

FILE = "genai_config.json"


def write_config(folder: Path, checkpoint: Checkpoint, model: str) -> None:
    """Write genai_config.json into ``folder``, which holds the sidecars, for a decoder.

    Nothing is written for what genai has no way to run: encoders, and decoders whose count of
    heads changes from layer to layer. model: the graph, relative to the folder.
    """
    if isinstance(checkpoint.form, LlamaForm):
        path = folder / "generation_config.json"
        said = json.loads(path.read_bytes()) if path.exists() else {}
        generation = {key: value for key, value in said.items() if value is not None}
        config = _config(checkpoint, checkpoint.form, generation, model)
        (folder / FILE).write_text(json.dumps(config, indent=2) + "\n")


def _config(checkpoint: Checkpoint, c: LlamaForm, generation: dict, model: str) -> dict:
    """The model as its graph is; the search as generation_config.json says, else greedy."""
    ids = checkpoint.config | generation
    special = {f"{name}_token_id": ids.get(f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {
        "model": {
            "type": c.model_type,
            **{name: index for name, index in special.items() if index is not None},
            "context_length": c.positions,
            "vocab_size": c.vocab,
            "decoder": {
                "filename": model,
                "session_options": {},
                "hidden_size": c.hidden,
                "head_size": c.head_dim,
                "num_attention_heads": c.heads,
                "num_key_value_heads": c.kv_heads,
                "num_hidden_layers": c.layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": bool(generation.get("do_sample", False)),
            "temperature": generation.get("temperature", 1.0),
            "top_k": generation.get("top_k", 50),
            "top_p": generation.get("top_p", 1.0),
            "repetition_penalty": generation.get("repetition_penalty", 1.0),
            "max_length": c.positions,
            "past_present_share_buffer": True,
        },
    }
