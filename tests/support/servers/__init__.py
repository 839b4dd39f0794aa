"""Servers that the tests of remote archives start on this machine."""
