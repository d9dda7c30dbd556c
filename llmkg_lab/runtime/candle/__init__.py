"""Artifacts on Candle, in a process of their own."""
