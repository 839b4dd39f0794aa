"""The examples run as they stand, on small data."""

import os
import subprocess
import sys

from support.paths import ROOT

EXAMPLES = ROOT / "examples"
DIGITS = EXAMPLES / "data" / "digits.tar"


def run(script, *arguments, cwd, fails=False):
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == int(fails), done.stderr
    return done.stderr if fails else done.stdout


def test_train_digits_reaches_its_accuracy(tmp_path):
    output = run("train_digits.py", cwd=tmp_path)
    assert "1797 images of 10 classes" in output
    assert "samples/s" in output
    accuracy = float(output.rsplit("held-out accuracy: ", 1)[1].split("%")[0])
    assert accuracy >= 95


def test_mistakes_are_answered_in_one_line(tmp_path):
    for arguments, said in (
        (["nothing.tar"], "no such archive"),
        ([DIGITS, "--batch-size", "0"], "batch_size"),
    ):
        (line,) = run("train_digits.py", *arguments, cwd=tmp_path, fails=True).splitlines()
        assert said in line


def test_solar_cells(tmp_path):
    output = run("solar_cells.py", "--limit", "160", "--epochs", "1", cwd=tmp_path)
    assert "160 images, labels of shape (2,) each" in output
    assert "mean error of the defect probability" in output


def test_make_digits_writes_what_is_committed(tmp_path):
    before = DIGITS.read_bytes()
    run("make_digits.py", cwd=tmp_path)
    assert DIGITS.read_bytes() == before
    assert len(before) <= 2_000_000
