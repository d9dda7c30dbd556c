"""Small open language models, quantized to run anywhere, with proof of what each bit cost."""

__version__ = "0.1.0"
