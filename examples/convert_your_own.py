"""Convert a checkpoint of your own, check what came out, and let it write.

    python examples/convert_your_own.py CHECKPOINT OUT [SCHEME ...]

CHECKPOINT is a folder (config.json, safetensors or PyTorch files, tokenizer.json) or a .gguf file.
"""

import sys
from pathlib import Path

from llmkg_lab import Scheme, convert, open_backend, open_checkpoint
from llmkg_lab.artifact import verify
from llmkg_lab.runtime.text.generate import GenerationConfig

PROMPT = "The capital of France is"


def main(path: str, out: str, *names: str) -> None:
    """Make one artifact per scheme in OUT/SCHEME."""
    checkpoint = open_checkpoint(path)
    for name in names or ("int8", "balanced"):
        scheme = Scheme.parse(name)
        artifact = convert(checkpoint, scheme, Path(out) / scheme.name)
        problems = verify(artifact.folder)
        print(
            f"{scheme.name}: {artifact.nbytes / 1e6:.2f} MB, "
            f"{artifact.bits_per_weight:.2f} bits per weight, {'; '.join(problems) or 'whole'}"
        )
        if artifact.task == "text-generation":
            greedy = GenerationConfig(temperature=0, max_tokens=16)
            backend = open_backend(artifact.folder)
            print(f"  {PROMPT} …{backend.generate_text(PROMPT, greedy)}")
            backend.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
