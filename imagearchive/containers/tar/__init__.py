"""TAR archives."""
