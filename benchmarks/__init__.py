"""Measurements beside other runtimes and quantizers: ``python -m benchmarks --help``."""

import llmkg_lab  # noqa: F401  (before ONNX Runtime, whose telemetry it turns off)
