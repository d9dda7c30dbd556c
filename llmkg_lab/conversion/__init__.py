"""The way from a checkpoint to an artifact: ONNX, GGUF, and what lies beside them."""
