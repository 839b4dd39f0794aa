"""The index table: building, saving, checking, searching."""
