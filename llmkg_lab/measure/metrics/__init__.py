"""The measures of what quantization cost, as modules of the ``evaluate`` library.

Each file is a metric of its own: ``evaluate.load("llmkg_lab/measure/metrics/divergence.py")`` opens it
without a network. A result is a dict of estimates by name, each a dict of value, low, high
(95 % interval), n and unit.
"""
