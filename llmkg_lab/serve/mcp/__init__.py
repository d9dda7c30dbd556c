"""Knowledge and models for assistants that speak the Model Context Protocol."""
