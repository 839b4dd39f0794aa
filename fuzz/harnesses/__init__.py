"""The harnesses, one module for each kind of input."""
