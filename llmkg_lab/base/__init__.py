"""What knows nothing of models: errors, paths, the cache, the machine."""
