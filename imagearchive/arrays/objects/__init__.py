"""Arrays of Python objects, read from their pickle without executing it."""
