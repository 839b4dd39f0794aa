"""The training examples run as they stand, on small archives, alone and under torchrun."""

import io
import os
import runpy
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.paths import ROOT

EXAMPLES = ROOT / "examples"
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


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Runs an example in this process, which has imported torch already."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")

    yield call
    signal.signal(signal.SIGTERM, handler)


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


@pytest.mark.parametrize("amp", ["off", "bfloat16"])
def test_a_stop_changes_nothing_of_what_is_learned(amp, archives, tmp_path, inside):
    train, val = archives
    options = (train, "--val", val, "--batch-size", "5", "--size", "16", "--epochs", "2",
               "--warmup", "0.5", "--amp", amp)  # fmt: skip

    def learned(out):
        state = torch.load(tmp_path / out / "checkpoint.pt", weights_only=True)
        assert (state["step"], state["loader"]["epoch"]) == (24, 2)
        return {**state["model"], "rate": torch.tensor(state["optimizer"]["param_groups"][0]["lr"])}

    inside("train_classifier.py", *options, "--out", "straight")
    for steps in ("7", "17", "40"):
        # With other numbers of threads, and in the middle of either epoch.
        inside("train_classifier.py", *options, "--out", "stopped", "--max-steps", steps,
               "--workers", steps[-1])  # fmt: skip
    straight, stopped = learned("straight"), learned("stopped")
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_the_learning_rate_is_that_of_the_samples_seen(archives, tmp_path, inside):
    train, _ = archives
    rates = []
    for steps in ("3", "6", "12"):
        inside("train_classifier.py", train, "--batch-size", "5", "--size", "16", "--epochs", "2",
               "--warmup", "1", "--lr", "0.256", "--max-steps", steps)  # fmt: skip
        state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
        rates.append(state["optimizer"]["param_groups"][0]["lr"])
    # A linear rise over the first of two epochs of twelve steps, to 0.256 for 256 images.
    assert rates == pytest.approx([0.005 * 3 / 12, 0.005 * 6 / 12, 0.005])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the following arguments are required: train"),
        (("{train}", "--batch-size", "0"), "argument --batch-size: 0 is less than 1"),
        (("{train}", "--batch-size", "999"), "fewer images than one batch"),
        (("{train}", "--workers", "-1"), "OptionError: num_workers must be at least 0, got -1"),
        (("{train}", "--val", "none.tar"), "ArchiveNotFoundError"),
        (("{train}", "--val", "{other}"), "only one of the two archives has class_1, class_2"),
        (("{flat}",), "no image lies in a directory"),
    ],
)
def test_wrong_arguments_are_explained(arguments, said, archives, tmp_path, inside, capsys):
    for name, folder in (("other", "class_0/"), ("flat", "")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(Path(__file__), f"{folder}x.jpg")
    places = {"train": archives[0], "other": tmp_path / "other.tar", "flat": tmp_path / "flat.tar"}
    arguments = [argument.format(**places) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        inside("train_classifier.py", *arguments)
    assert said in f"{ended.value.code}{capsys.readouterr().err}"
    assert ended.value.code not in (0, None)


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
