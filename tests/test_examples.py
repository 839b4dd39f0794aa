"""The examples run unchanged on small data: alone, and under torchrun."""

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
from PIL import Image
from support.paths import ROOT

torch = pytest.importorskip("torch")

EXAMPLES = ROOT / "examples"
DIGITS = EXAMPLES / "data" / "digits.tar"
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


# Some builds of torch abort in their own destructors if a process that used gloo has already ended.
# Leaving before that keeps it out of these tests.
LEAVE = """
import os, runpy, sys
sys.argv.pop(0)
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.flush()
os._exit(0)
"""


def run(script, *arguments, cwd, command=ALONE):
    """Run an example in a process of its own; return what it prints."""
    program = cwd / "leave.py"
    program.write_text(LEAVE)
    done = subprocess.run(
        [*command, str(program), str(EXAMPLES / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
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
def test_train_classifier_resumes_within_an_epoch_on_other_processes(
    first, second, archives, tmp_path
):
    train, val = archives
    options = (train, "--val", val, "--batch-size", "5", "--size", "16", "--workers", "1")
    output = run(
        "train_classifier.py", *options, "--epochs", "2", "--max-steps", "3",
        cwd=tmp_path, command=first,
    )  # fmt: skip
    assert "epoch 0" not in output
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    output = run("train_classifier.py", *options, "--epochs", "2", cwd=tmp_path, command=second)
    lines = output.splitlines()
    assert lines[0] == "resumed at step 3, epoch 0"
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 0"] * 2 + ["epoch 1"] * 2
    assert 0 <= float(lines[-1].rsplit(" ", 1)[1]) <= 1


@pytest.mark.parametrize("amp", ["off", "bfloat16"])
def test_train_classifier_resumed_run_has_the_same_weights(amp, archives, tmp_path, inside):
    train, val = archives
    options = (train, "--val", val, "--batch-size", "5", "--size", "16", "--epochs", "2",
               "--warmup", "0.5", "--amp", amp)  # fmt: skip

    def weights(out):
        state = torch.load(tmp_path / out / "checkpoint.pt", weights_only=True)
        assert (state["step"], state["loader"]["epoch"]) == (24, 2)
        return {**state["model"], "rate": torch.tensor(state["optimizer"]["param_groups"][0]["lr"])}

    inside("train_classifier.py", *options, "--out", "straight")
    for steps in ("7", "17", "40"):
        # With different numbers of threads, and in the middle of either epoch.
        inside("train_classifier.py", *options, "--out", "stopped", "--max-steps", steps,
               "--workers", steps[-1])  # fmt: skip
    straight, stopped = weights("straight"), weights("stopped")
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_train_classifier_learning_rate_depends_on_samples_seen(archives, tmp_path, inside):
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
    ("arguments", "message"),
    [
        ((), "the following arguments are required: train"),
        (("{train}", "--batch-size", "0"), "argument --batch-size: 0 is less than 1"),
        (("{train}", "--batch-size", "999"), "not enough images for one batch"),
        (("{train}", "--workers", "-1"), "num_workers must be at least 0, got -1"),
        (("{train}", "--val", "none.tar"), "ArchiveNotFoundError"),
        (("{train}", "--val", "{other}"), "only one of them has class_1, class_2"),
        (("{flat}",), "no class directories found"),
    ],
)
def test_train_classifier_invalid_arguments_are_explained(
    arguments, message, archives, tmp_path, inside, capsys
):
    for name, folder in (("other", "class_0/"), ("flat", "")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(Path(__file__), f"{folder}x.jpg")
    places = {"train": archives[0], "other": tmp_path / "other.tar", "flat": tmp_path / "flat.tar"}
    arguments = [argument.format(**places) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        inside("train_classifier.py", *arguments)
    assert message in f"{ended.value.code}{capsys.readouterr().err}"
    assert ended.value.code not in (0, None)


def test_benchmark_workers_prints_a_line_per_number(archives, tmp_path):
    output = run(
        "benchmark_workers.py", archives[0], "--workers", "1", "2", "--size", "16",
        cwd=tmp_path,
    )  # fmt: skip
    assert [line.split()[1] for line in output.splitlines()] == ["1", "2"]


def test_lightning_module_resumes(archives, tmp_path):
    # A stand-in for Lightning; the module uses only this class of it.
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


def test_lightning_module_without_lightning_says_what_to_install(archives, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "lightning_datamodule.py"), *archives],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # If Lightning is installed, the example runs.
    assert "pip install lightning" in done.stderr or done.stdout.startswith("train: ")


def test_train_digits_reaches_95_percent(tmp_path):
    output = run("train_digits.py", cwd=tmp_path)
    assert "1797 images of 10 classes" in output
    assert "samples/s" in output
    accuracy = float(output.rsplit("held-out accuracy: ", 1)[1].split("%")[0])
    assert accuracy >= 95


def test_train_digits_invalid_arguments_print_one_line(inside):
    for arguments, message in (
        (["nothing.tar"], "no such archive"),
        ([DIGITS, "--batch-size", "0"], "batch_size"),
    ):
        with pytest.raises(SystemExit) as ended:
            inside("train_digits.py", *arguments)
        (line,) = ended.value.code.splitlines()
        assert message in line


def test_solar_cells_trains_on_float_labels(tmp_path):
    output = run("solar_cells.py", "--limit", "160", "--epochs", "1", cwd=tmp_path)
    assert "160 images, labels of shape (2,) each" in output
    assert "mean error of the defect probability" in output


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    run("scenes.py", "scenes.tar", cwd=folder)
    return folder / "scenes.tar"


# The results are 0.91, 1.00, and 75 %. An untrained detector has 0.00, and chance finds 5 % of the
# captions.
@pytest.mark.parametrize(
    ("script", "epochs", "least", "line"),
    [
        ("segmentation.py", 2, 0.8, "mean IoU of the colors on held-out scenes: "),
        ("detection.py", 3, 0.7, "average precision at IoU 0.5 on held-out scenes: "),
        ("clip.py", 15, 60, "right caption of 20 on held-out scenes: "),
    ],
)
def test_examples_of_samples_reach_their_results(script, epochs, least, line, scenes, tmp_path):
    picture = [] if script == "clip.py" else ["--picture", "batch.png"]
    output = run(script, scenes, "--epochs", epochs, *picture, cwd=tmp_path)
    assert float(output.rsplit(line, 1)[1].strip().rstrip("%")) >= least
    if picture:
        with Image.open(tmp_path / "batch.png") as drawn:
            assert min(drawn.size) >= 4 * 96


def test_make_digits_reproduces_the_committed_file(tmp_path):
    before = DIGITS.read_bytes()
    run("data/make_digits.py", cwd=tmp_path)
    assert DIGITS.read_bytes() == before
    assert len(before) <= 2_000_000
