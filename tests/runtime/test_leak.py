"""Memory over calls; `python -m benchmarks.leak` makes 10,000 calls of the real models."""

from benchmarks.leak import GROWTH, growth
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.scheme import Scheme


def test_calls_leave_no_memory_behind(tiny_llama, make_artifact, tmp_path):
    decoder = convert(
        open_checkpoint(tiny_llama[1]), Scheme.parse("int8-rtn"), tmp_path / "int8-rtn"
    )
    assert growth(decoder, make_artifact("minilm", "int8-rtn"), 600) < GROWTH
