"""The native loader: reading, decoding and collating in threads."""
