"""Weight quantization: rounding in blocks, solvers, and byte budgets."""
