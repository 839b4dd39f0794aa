"""Compiles the C loops in this folder, the limits that some benchmarks measure against."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

__all__ = ["load_c"]


def load_c(name: str, *flags: str) -> ctypes.CDLL:
    """Compile ``NAME.c`` with ``-O3`` and the flags unless that was done before, and load it."""
    source = Path(__file__).with_name(f"{name}.c")
    target = Path(tempfile.gettempdir(), f"imagearchive-{name}.so")
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-O3", "-shared", "-fPIC", str(source), "-o", str(target), *flags]
        subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))
