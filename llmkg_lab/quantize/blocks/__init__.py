"""Integer codes in blocks along a row: rounding, scales, packing."""
