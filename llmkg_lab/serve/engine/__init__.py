"""What computes: models within a memory budget, and sequences decoded side by side."""
