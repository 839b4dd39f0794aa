"""What makes the archives that the datasets read."""
