"""The command `view`: a web page of an archive, on this machine only."""
