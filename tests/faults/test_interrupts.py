"""An interrupt at any point neither hangs a function nor leaves its threads or processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = [
    "background", "batches", "blocks", "chunks", "directory", "generator", "locks", "processes",
    "requests", "spans", "sync", "tasks",
]  # fmt: skip


def run_interrupted(case, folder, shim):
    """Return how many events there were, and the findings."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interrupts.py"), case, folder, shim],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    return report["events"], report["findings"]


@pytest.fixture(scope="module")
def python_unlocks(tmp_path_factory, shim):
    """Skip where Python itself may leave a lock locked, as 3.14 does before gh-148874."""
    if run_interrupted("python", tmp_path_factory.mktemp("python"), shim)[1]:
        pytest.skip("an interrupt may leave `with lock` locked in this Python; see gh-148874")


@pytest.mark.skipif(sys.platform != "linux", reason="the shim wraps functions of glibc")
@pytest.mark.usefixtures("python_unlocks")
@pytest.mark.parametrize("case", CASES)
def test_threads_and_processes_interrupted_at_any_point_end_with_the_function(tmp_path, shim, case):
    events, findings = run_interrupted(case, tmp_path, shim)
    assert findings == []
    assert events > 30
