"""What tests share: small checkpoints, a Hub on loopback, a browser."""
