"""A knowledge graph that a language model can use: facts, texts, search, memory.

SQLite holds the truth; indices of words and vectors, and the graph that SPARQL asks, are derived
from it and made anew whenever they do not match it.
"""
