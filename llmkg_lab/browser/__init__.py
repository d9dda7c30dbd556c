"""What lies in a browser's way to a model: a server of bundles, and a trial in a real one."""
