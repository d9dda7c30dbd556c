"""What a model is, one file for each form: no weights, no ONNX, no PyTorch."""
