"""Archives as sequences of samples."""
