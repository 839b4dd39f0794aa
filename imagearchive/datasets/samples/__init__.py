"""Samples of several fields, which are paired by the keys in the names of their members."""
