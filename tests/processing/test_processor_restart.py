"""The processor again: only what is missing is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from support.annotated_images import digests, make_detector, make_landmarker, process
from support.scripts import script

from imagearchive import DataProcessor, LazyNPZDataset
from imagearchive.cli import main


class CountingPool(ThreadPoolExecutor):
    """Counts the tasks, each of which decodes one image here."""

    count = 0

    def submit(self, function, /, *args, **options):
        self.count += 1
        return super().submit(function, *args, **options)


def decoded(raw, out, **options):
    """Process detector data, and return how many images were decoded."""
    with CountingPool(1) as pool:
        processor = process(raw, out, executor=pool, batch_size=1, **options)
        reports = [processor.process_detector(0.5)]
    with open(out / "report_detector.json") as file:
        assert json.load(file)["train"] == reports[0].train
    return pool.count


@pytest.fixture
def raw(tmp_path):
    make_detector(tmp_path / "raw", 8)
    return tmp_path / "raw"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_processor_again_decodes_nothing_and_reports_the_same(raw, out):
    first = process(raw, out).process_detector(0.5)
    before = digests(out)
    assert process(raw, out, num_workers=2, batch_size=3).process_detector(0.5) == first
    assert decoded(raw, out) == 0
    assert digests(out) == before


@pytest.mark.parametrize(
    "change", ["image", "option", "split", "seed", "output", "size", "report", "deep"]
)
def test_processor_again_after_a_change_decodes_all(raw, out, change):
    assert decoded(raw, out) == 8
    options = {}
    if change == "image":
        path = next(path for path in sorted(raw.rglob("*.png")))
        Image.new("RGB", (50, 50)).save(path)
    elif change == "option":
        options = {"image_size": 20}
    elif change == "seed":
        options = {"seed": 5}
    elif change == "output":
        (out / "val_detector.npz").unlink()
    elif change == "size":
        os.truncate(out / "train_detector.npz", 100)
    elif change == "report":
        (out / "report_detector.json").write_text("{")
    elif change == "deep":
        (out / "report_detector.json").write_text("[" * 200_000)
    if change == "split":
        process(raw, out).process_detector(1)
        assert sorted(os.listdir(out)) == ["report_detector.json", "train_detector.npz"]
    assert decoded(raw, out, **options) == 8
    assert decoded(raw, out, **options) == 0


def test_processor_all_again_does_only_the_kind_that_is_missing(raw, out):
    make_landmarker(raw, 4)
    process(raw, out).process_all(0.5)
    before = digests(out)
    (out / "train_landmarker.npz").unlink()
    with CountingPool(1) as pool:
        process(raw, out, executor=pool, batch_size=1).process_all(0.5)
    assert pool.count == 4
    assert digests(out) == before


STOPPED = """
    import glob, os, sys, time
    from concurrent.futures import ThreadPoolExecutor
    from imagearchive import DataProcessor

    raw, out, number = sys.argv[1], sys.argv[2], int(sys.argv[3])

    class Pool(ThreadPoolExecutor):
        count = 0

        def submit(self, function, /, *args, **options):
            self.count += 1
            if self.count <= 4:
                return super().submit(function, *args, **options)
            return super().submit(self.stop)

        def stop(self):
            # An image for validation: the file for training is going to be complete.
            while not glob.glob(os.path.join(out, ".processing_detector.*", "*_detector.npz")):
                time.sleep(0.01)
            os.kill(os.getpid(), number)
            time.sleep(60)

    pool = Pool(1)
    DataProcessor(raw, out, 1, 2, image_size=16, executor=pool).process_detector(0.5)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processor_that_was_stopped_keeps_the_file_that_was_complete(raw, out, tmp_path, number):
    out.mkdir()
    command = [*script(tmp_path, STOPPED), str(raw), str(out), str(int(number))]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not any(out.glob(".processing*/*_detector.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    if number == signal.SIGINT:
        # The thread of the pool still sleeps.
        time.sleep(0.5)
        process.kill()
    assert process.wait(30) < 0
    assert [name for name in os.listdir(out) if not name.startswith(".")] == []
    assert decoded(raw, out, image_size=16) == 4
    DataProcessor(raw, tmp_path / "whole", image_size=16, num_workers=0).process_detector(0.5)
    for name in ("train_detector.npz", "val_detector.npz"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(os.listdir(out)) == 3, "nothing hidden is left"


def test_processor_with_other_options_removes_what_was_kept(raw, out, tmp_path):
    out.mkdir()
    command = [*script(tmp_path, STOPPED), str(raw), str(out), str(int(signal.SIGKILL))]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert len(os.listdir(out)) == 1
    assert decoded(raw, out, image_size=8) == 8
    assert len(os.listdir(out)) == 3


def test_processor_writes_to_a_bucket_and_does_nothing_again(raw, moto, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    url, options = "s3://data/processed", moto.storage_options

    def run():
        processor = DataProcessor(
            raw, url, image_size=16, num_workers=0, storage_options=options, progress=False
        )
        return processor.process_detector(0.5)

    report = run()
    assert report.train_path == f"{url}/train_detector.npz"
    with LazyNPZDataset(report.train_path, storage_options=options) as rows:
        assert len(rows) == report.train == 4
    listed = moto.request("GET", query="list-type=2&prefix=processed/").body
    assert run() == report
    assert moto.request("GET", query="list-type=2&prefix=processed/").body == listed
    assert listed.count(b"<Key>") == 3
    assert not os.listdir(tmp_path / "temporary")


def test_process_command_refuses_an_http_url(raw, capsys):
    arguments = ["process", "--detector", "--raw-dir", str(raw)]
    assert main([*arguments, "--output-dir", "https://example.org/out"]) != 0
    assert "files cannot be written to an HTTP server" in capsys.readouterr().err


def test_processor_again_after_the_outputs_moved_reports_where_they_are(raw, out, tmp_path):
    process(raw, out).process_detector(0.5)
    moved = tmp_path / "moved"
    out.rename(moved)
    assert decoded(raw, moved) == 0
    report = process(raw, moved).process_detector(0.5)
    assert report.train_path == str(moved / "train_detector.npz")
    assert report.val_path == str(moved / "val_detector.npz")


def test_processor_again_after_an_annotation_of_a_missing_image_reports_it(raw, out):
    assert process(raw, out).process_detector(0.5).skipped == ()
    with open(raw / "detector" / "more_annotations.csv", "w") as file:
        file.write("image_path,x,y,width,height\nmissing.png,1,1,5,5\n")
    skipped = process(raw, out).process_detector(0.5).skipped
    assert ["missing.png" in one.path for one in skipped] == [True]
