"""The command line as a process: ``imagearchive`` and ``python -m imagearchive``."""

from __future__ import annotations

import gc
import sys
from typing import Final

import imagearchive

__all__ = ["run"]

# Importing the modules of a command creates 40,000 objects, none of which is garbage. By default,
# Python would search for some every 700 objects.
_OBJECTS_PER_COLLECTION: Final = 10_000


def run() -> int:
    """Run one command, and return the status that this process has to exit with."""
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    try:
        from imagearchive.cli import main

        return main()
    except ModuleNotFoundError as error:
        sys.exit(f"imagearchive: {imagearchive._explained(error)}")
    finally:
        # At exit, the interpreter would search all objects again, just before their memory is
        # returned to the system. That takes as long as packing a thousand files.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(run())
