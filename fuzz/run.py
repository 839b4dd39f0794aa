"""Runs a harness on one input again: ``python -m fuzz.run HARNESS FILE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fuzz.catalog import harness_named
from fuzz.environment import prepare_process
from fuzz.harness import execute


def main() -> int:
    """Print what the input does; return 1 if it is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("harness")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    prepare_process()
    outcome, finding = execute(harness_named(arguments.harness), arguments.file.read_bytes())
    if finding is None:
        print(f"no finding; outcome: {outcome}")
        return 0
    print(f"{finding.signature}\n{finding.report}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
