"""Archives as mappings of names to bytes, and what is done with whole archives."""
