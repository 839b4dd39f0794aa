"""NumPy's array formats: headers, ragged columns, and object arrays without executing pickles."""
