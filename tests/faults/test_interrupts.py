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


@pytest.mark.skipif(sys.platform != "linux", reason="the shim wraps functions of glibc")
@pytest.mark.parametrize("case", CASES)
def test_threads_and_processes_interrupted_at_any_point_end_with_the_function(tmp_path, shim, case):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interrupts.py"), case, tmp_path, shim],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["findings"] == []
    assert report["events"] > 30
