"""What quantization cost, and how fast an artifact runs."""
