"""Slow twins of native code, and what they are compared by."""
