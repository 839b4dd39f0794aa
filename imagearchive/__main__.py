"""``python -m imagearchive``: the command line."""

import sys

import imagearchive

if __name__ == "__main__":
    try:
        from imagearchive.cli import main

        sys.exit(main())
    except ModuleNotFoundError as error:
        sys.exit(f"imagearchive: {imagearchive._explained(error)}")
