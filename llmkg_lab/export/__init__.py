"""Other formats than ONNX. GGUF (llama.cpp, Candle) is written by ``gguf.export``."""
