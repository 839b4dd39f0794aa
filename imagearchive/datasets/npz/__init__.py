"""Rows of NPZ files as samples."""
