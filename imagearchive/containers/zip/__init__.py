"""ZIP, and so NPZ: scanning and writing."""
