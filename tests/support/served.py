"""Small models with random weights for servers and conversations."""

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

VARIANTS = {
    "text": "smollm2_135m_instruct",
    "embed": "all_minilm_l6_v2",
    "rank": "ms_marco_minilm_l6_v2",
}


def small_artifacts(folder, names=tuple(VARIANTS)):
    """By what they do."""
    made = {}
    for name in names:
        fetched = fetch(find_variant(VARIANTS[name]), "synthetic:reduced")
        checkpoint = open_checkpoint(fetched.path)
        made[name] = convert(checkpoint, Scheme.parse("int8-rtn"), folder / name)
    return made
