"""What the panels ask of a model, computed without widgets."""
