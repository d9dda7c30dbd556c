"""Writing ONNX graphs: one file for each model form."""
