"""An importance matrix for llama.cpp's quantizer, as its own tool computes it.

python -m benchmarks.importance MODEL OUT    of a folder, on the text at hand; OUT is an .npz file
"""

import hashlib
import sys
from importlib.metadata import version

import numpy as np
from tqdm import tqdm

from llmkg_lab.base import cache
from llmkg_lab.checkpoint import Checkpoint, open_checkpoint
from llmkg_lab.data.texts import Text, windows
from llmkg_lab.quantize.solve.text import at_hand
from llmkg_lab.reference.filled import load_model
from llmkg_lab.runtime.text.tokenizer import Tokenizer

METHOD = 1  # counted up when the same inputs would give other values
CALIBRATION, WINDOW = 32, 512  # windows of how many tokens it is measured on


def importance_on(checkpoint: Checkpoint, text: Text) -> dict[str, np.ndarray]:
    """On the first windows of a text's calibration half, as ``importance`` returns it."""
    tokenizer = Tokenizer.from_files(checkpoint.sidecars())
    ids = tokenizer.encode(text.calibration)
    return importance(checkpoint, windows(ids, WINDOW, CALIBRATION * WINDOW))


def importance(checkpoint: Checkpoint, windows: np.ndarray) -> dict[str, np.ndarray]:
    """The mean square of each column's input, float32 (columns,), by the matrix's GGUF name.

    windows: token ids of calibration text, (n, tokens) int64. Of the layers' matrices only, as
    llama.cpp's tool has it by default: the LM head is quantized without. Cached by content.
    """
    key = {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "windows": [*windows.shape, hashlib.sha256(windows.tobytes()).hexdigest()],
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    return cache.arrays("importance", key, lambda: _measure(checkpoint, windows))


def _measure(checkpoint: Checkpoint, windows: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    model, sums = load_model(checkpoint), {}

    def adding(name: str):
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].double().square().sum(dim=(0, 1))  # (1, tokens, columns)
            sums[name] = sums.get(name, 0) + squares

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers."):
            gguf_name = checkpoint.form.gguf.gguf_name(f"{name}.weight")
            module.register_forward_pre_hook(adding(gguf_name))
    with torch.inference_mode():
        for window in tqdm(windows, desc="importance matrix", unit="window", file=sys.stderr):
            model.base_model(input_ids=torch.tensor(window[None]), use_cache=False)
    return {name: (total / windows.size).float().numpy() for name, total in sums.items()}


if __name__ == "__main__":
    model, out = sys.argv[1:]
    np.savez(out, **importance_on(open_checkpoint(model), at_hand()))
