"""The best mix of layouts within a number of bytes."""
