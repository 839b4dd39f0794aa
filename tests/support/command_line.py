"""Running the command line in tests."""

import io
import os
import subprocess
import sys
import tarfile

COMMANDS = [
    "index", "ls", "tree", "find", "cat", "info", "verify", "view", "extract", "pack", "convert",
    "repack", "report", "process", "completion",
]  # fmt: skip


def start_command(*arguments, **options):
    """Start ``python -m imagearchive`` as a child process whose output is piped."""
    return subprocess.Popen(
        [sys.executable, "-m", "imagearchive", *map(os.fspath, arguments)],
        **{
            "env": {**os.environ, "PYTHONWARNINGS": "default"},
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    )


def write_named_tar(path, name):
    """Write a TAR of two members, one with a name of any kind and one called ``good``."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as packed:
        for member, size in ((name, 5), ("good", 4)):
            info = tarfile.TarInfo(member)
            info.size = size
            if "\0" in member:
                # The name field of the header would end at the NUL.
                info.name, info.pax_headers = "short", {"path": member}
            packed.addfile(info, io.BytesIO(b"x" * size))
    return path
