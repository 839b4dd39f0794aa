"""Writing NPZ files row by row."""
