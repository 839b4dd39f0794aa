"""The training examples run as they stand, on small archives, alone and under torchrun."""

import io
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
ALONE = (sys.executable,)
TWO = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("val", 21)):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for number in range(count):
                pixels = rng.integers(0, 100, (20, 24, 3), np.uint8)
                pixels[..., number % 3] += 100
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "JPEG")
                info = tarfile.TarInfo(f"class_{number % 3}/{number:03d}.jpg")
                info.size = data.tell()
                data.seek(0)
                archive.addfile(info, data)
    return str(folder / "train.tar"), str(folder / "val.tar")


# Builds of torch abort now and then in their own destructors, when a process that used gloo has
# already ended; leaving before that keeps it out of these tests.
LEAVE = """
import os, runpy, sys
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.flush()
os._exit(0)
"""


def run(command, script, *arguments, cwd, code=0):
    program = cwd / "leave.py"
    program.write_text(LEAVE)
    done = subprocess.run(
        [*command, str(program), str(EXAMPLES / script), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.parametrize(("first", "second"), [(ALONE, TWO), (TWO, ALONE)], ids=["1-2", "2-1"])
def test_training_stops_in_an_epoch_and_goes_on_with_other_processes(
    first, second, archives, tmp_path
):
    train, val = archives
    options = (train, "--val", val, "--batch-size", "5", "--size", "16", "--workers", "1")
    output = run(
        first, "train_classifier.py", *options, "--epochs", "2", "--max-steps", "3", cwd=tmp_path
    )
    assert "epoch 0" not in output
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    output = run(second, "train_classifier.py", *options, "--epochs", "2", cwd=tmp_path)
    lines = output.splitlines()
    assert lines[0] == "resumed at step 3, epoch 0"
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 0"] * 2 + ["epoch 1"] * 2
    assert 0 <= float(lines[-1].rsplit(" ", 1)[1]) <= 1


def test_benchmark_of_worker_counts(archives, tmp_path):
    output = run(
        ALONE, "benchmark_workers.py", archives[0], "--workers", "1", "2", "--size", "16",
        cwd=tmp_path,
    )  # fmt: skip
    assert [line.split()[1] for line in output.splitlines()] == ["1", "2"]


def test_lightning_module(archives, tmp_path):
    # Stands in for Lightning, of which the module uses one class.
    (tmp_path / "lightning.py").write_text("class LightningDataModule:\n    pass\n")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path[:0] = [{str(tmp_path)!r}, {str(EXAMPLES)!r}]
            from lightning_datamodule import ArchiveDataModule

            module = ArchiveDataModule(*{archives!r}, batch_size=8, size=16, num_workers=1)
            batches = iter(module.train_dataloader())
            seen = [next(batches)[1].tolist() for _ in range(3)]
            state = module.state_dict()
            other = ArchiveDataModule(*{archives!r}, batch_size=8, size=16, num_workers=1)
            other.load_state_dict(state)
            rest = [labels.tolist() for _, labels in other.train_dataloader()]
            assert rest == [labels.tolist() for _, labels in batches], rest
            assert sum(len(labels) for _, labels in module.val_dataloader()) == 21
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_lightning_example_says_what_it_needs(archives, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "lightning_datamodule.py"), *archives],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # Where Lightning is installed, the example runs.
    assert "pip install lightning" in done.stderr or done.stdout.startswith("train: ")
