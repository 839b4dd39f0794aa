"""The library's advice, in the words of the command line."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["in_options"]

# The library speaks to programs: its messages name parameters and methods. This is the one place
# that knows what these are called on the command line; the longer phrase goes before the shorter.
PHRASES: Final = {
    "pass existing='replace' or existing='skip'": "use --overwrite or --skip-existing",
    "pass overwrite=True": "use --overwrite",
    "pass start_clean=True to replace it or append=True to add to it": "use --overwrite",
    "pass start_clean=True": "use --overwrite",
    "build it again with overwrite_index=True": "build it again with: imagearchive index -f",
    "pass strict=False": "use --partial",
    "skip_unsafe=True extracts": "--skip-unsafe extracts",
    "list it with listdir()": "list it with: imagearchive ls",
    "say with root=": "say with --root",
    "pass ipath=": "use --ipath",
    "with ipath=": "with --ipath",
    "ipath='": "--ipath '",
    "raise max_pixels": "raise --max-pixels",
    "raise max_size": "raise --max-size",
    "raise max_ratio": "raise --max-ratio",
    "; read parts of it with open() or member()": "",
}
_ANY: Final = re.compile("|".join(map(re.escape, PHRASES)))


def in_options(message: str) -> str:
    """Speak of options and commands where the library speaks of parameters and methods."""
    return _ANY.sub(lambda match: PHRASES[match[0]], message)
