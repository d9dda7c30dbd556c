"""Tokens in and out: tokenizer, sampling, stop texts, generation."""
