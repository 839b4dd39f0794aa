"""The environment that harnesses run in."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import warnings

from fuzz.harness import record_unraisable

# More address space than any input should make the package ask for.
ADDRESS_SPACE = 6 << 30


def prepare_process() -> None:
    """Limit the memory of this process, and turn warnings into errors."""
    warnings.simplefilter("error")
    # Archives in memory have no place for an index; and mutated NPZ files have equal names.
    warnings.filterwarnings("ignore", "memory://.*the index cannot be saved")
    warnings.filterwarnings("ignore", "Duplicate name")
    logging.disable(logging.CRITICAL)
    # No index is saved in the user's cache.
    os.environ["XDG_CACHE_HOME"] = os.devnull
    if "LD_PRELOAD" not in os.environ:
        # The sanitizers reserve terabytes; they have limits of their own, below.
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    record_unraisable()
    from support.memory_location import SCHEME, MemoryLocation

    from imagearchive.storage.location import register_scheme

    register_scheme(SCHEME, MemoryLocation)


def sanitized_environment() -> dict[str, str]:
    """Return the variables that a Python without sanitizers needs to load modules with them."""
    libraries = [_library(name) for name in ("libasan.so", "libubsan.so")]
    return {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048:"
        "hard_rss_limit_mb=6144:quarantine_size_mb=16:handle_segv=1:abort_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
    }


def _library(name: str) -> str:
    compiler = os.environ.get("CC", "gcc").split()[0]
    command = [compiler, f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(found):
        sys.exit(f"{compiler} has no {name}; install the sanitizers of gcc")
    return os.path.realpath(found)
