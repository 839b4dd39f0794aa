"""Writers with a fault at every system call, signals at random moments, and too little of anything.

After each run, what has its final name is whole, an error names a file, and the next run removes
what was left and writes the right thing. ``FAULT_SIGNALS`` sets how often each signal is sent.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WRITERS = [
    "bins", "convert-bins", "convert-zip", "extract", "extract-existing", "index", "npz", "pack",
    "process", "repack", "repack-npz", "shard-writer", "shards", "tar", "zip",
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the shim wraps functions of glibc")
@pytest.mark.parametrize("writer", WRITERS)
def test_writer_with_faults_leaves_whole_files_and_the_next_run_is_right(tmp_path, shim, writer):
    count = os.environ.get("FAULT_SIGNALS", "10")
    done = subprocess.run(
        [sys.executable, HERE / "driver.py", writer, tmp_path, shim, count],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["findings"] == []
    # Each run has a system call that can fail, and is followed by another run.
    assert report["runs"] > 2 * (3 * int(count) + 15)
