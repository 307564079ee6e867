"""Integer arithmetic, quantization and the integer golden network."""
