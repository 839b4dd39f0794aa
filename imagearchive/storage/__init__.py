"""Where bytes come from: locations, and random access to the bytes of each."""
