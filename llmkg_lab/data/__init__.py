"""Evaluation and calibration texts, found by name."""
