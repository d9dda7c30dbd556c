"""The way from a checkpoint to an artifact: ONNX, GGUF, and what other runtimes read beside them."""
