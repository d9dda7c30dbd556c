"""A server with OpenAI's interface over converted models: a door beside the command line."""
