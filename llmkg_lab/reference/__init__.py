"""What the original model computes: PyTorch in float32."""
