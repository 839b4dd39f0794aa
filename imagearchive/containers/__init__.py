"""Container formats. Everything that is known of one of them is in its module here."""
