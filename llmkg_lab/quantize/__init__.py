"""Weight quantization: the schemes, the solvers and the packing, one file each."""

from llmkg_lab.quantize.scheme import Layout, Scheme, SchemeError

__all__ = ["Layout", "Scheme", "SchemeError"]
