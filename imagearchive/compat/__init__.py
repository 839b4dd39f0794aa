"""Other libraries' names for parts of this one, without any logic beyond that."""
