"""What lies in a browser's way to a model: a server of bundles on this machine."""
