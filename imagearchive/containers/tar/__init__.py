"""TAR: scanning, sparse members, writing."""
