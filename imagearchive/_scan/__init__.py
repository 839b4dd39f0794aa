"""Scanners: the bytes of an archive in, rows of the index table out.

The only place that parses containers. Each scanner module offers ``NAME``, ``VERSION`` and
``scan(storage, strict=True) -> RowBuffer``; `imagearchive.index` calls it, resolves links and
duplicate names, sorts and saves.
"""
