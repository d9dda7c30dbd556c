"""Artifacts on ONNX Runtime."""
