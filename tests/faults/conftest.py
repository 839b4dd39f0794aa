"""The library that the fault tests preload."""

import subprocess
import sysconfig
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """Compile the library that is preloaded."""
    path = tmp_path_factory.mktemp("shim") / "shim.so"
    compiler = sysconfig.get_config_var("CC").split()
    source = Path(__file__).with_name("shim.c")
    subprocess.run([*compiler, "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path
