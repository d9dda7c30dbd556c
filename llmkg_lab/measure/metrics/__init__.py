"""The measures of what quantization cost, as modules of the ``evaluate`` library.

Each file is a metric of its own: ``evaluate.load`` opens one by its path, such as
``llmkg_lab/measure/metrics/divergence.py``, without a network. A result is a dict of estimates by
name, each a dict of value, low, high (95 % interval), n and unit.
"""
