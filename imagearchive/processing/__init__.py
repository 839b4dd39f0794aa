"""Annotations and their images into NPZ files."""
