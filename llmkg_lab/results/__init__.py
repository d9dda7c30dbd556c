"""What was measured, for programs: result.json and the registry."""
