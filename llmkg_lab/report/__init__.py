"""What a conversion report shows."""
