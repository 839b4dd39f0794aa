"""``python -m imagearchive``: the command line."""

import sys

from imagearchive.cli import main

if __name__ == "__main__":
    sys.exit(main())
