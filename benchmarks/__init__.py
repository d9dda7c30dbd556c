"""Measurements beside other runtimes and quantizers: ``python -m benchmarks --help``."""
