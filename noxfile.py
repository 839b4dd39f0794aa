"""Build and test the compiled parts under every supported Python that is installed."""

import os
from pathlib import Path

import nox

# pyenv's own commands offer only the active version; use every installed one.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
os.environ["PATH"] = os.pathsep.join(
    [*map(str, sorted(PYENV.glob("3.1*/bin"))), os.environ["PATH"]]
)
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

COMPILED = [
    "tests/arrays",
    "tests/images",
    "tests/index",
    "tests/storage/test_local.py",
    *map(str, sorted(Path("tests/containers").glob("test_*_scan*.py"))),
]


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def compiled(session):
    """Install from the source tree, without torch, and run the tests of the compiled parts."""
    # Several pinned releases do not support the oldest Python.
    pinned = () if session.python == "3.10" else ("-c", "constraints.txt")
    session.install(*pinned, ".")
    session.install(*pinned, "pytest", "hypothesis", "psutil")
    # Run elsewhere, so that the tests and their child processes do not import the source tree.
    root = Path.cwd()
    session.chdir(session.create_tmp())
    tests = [str(root / test) for test in COMPILED]
    session.run("pytest", "-q", "-p", "no:cacheprovider", "-c", f"{root}/pyproject.toml", *tests)
