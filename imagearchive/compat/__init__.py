"""Other libraries' names for parts of this one; no logic of their own."""
