"""Fuzzing of everything that reads bytes of others.

``make fuzz SECONDS=600`` runs all harnesses; `docs/development/fuzzing.md` says how to read the
result and how to rerun an input that failed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"

if str(TESTS) not in sys.path:
    # The seeds are made by the helpers of the tests.
    sys.path.insert(0, str(TESTS))
