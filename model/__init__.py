"""Float Vision Transformer with token selectors, its data and its training."""
