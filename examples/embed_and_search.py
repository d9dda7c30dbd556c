"""Embed the lines of a text file, and find those that are closest to a question.

    python examples/embed_and_search.py ARTIFACT LINES QUESTION

ARTIFACT is a converted sentence embedder, for instance of
`llmkg-lab run all_minilm_l6_v2`: outputs/minilm/all_minilm_l6_v2/artifacts/balanced.
"""

import sys
from pathlib import Path

import numpy as np

from llmkg_lab import open_backend

SHOWN = 3


def main(artifact: str, lines: str, question: str) -> None:
    """Print the closest lines with their cosine similarity, the closest first."""
    texts = [line for line in Path(lines).read_text().splitlines() if line.strip()]
    backend = open_backend(artifact)
    vectors = unit(backend.embed(texts))  # (texts, hidden)
    similarity = vectors @ unit(backend.embed([question]))[0]
    for i in np.argsort(-similarity, kind="stable")[:SHOWN]:
        print(f"{similarity[i]:.3f}  {texts[i]}")
    backend.close()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
