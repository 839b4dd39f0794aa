"""The README of splitdataloader, block by block."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

import imagearchive
from imagearchive.compat import splitdataloader as compat


def test_splitdataloader_readme_writer_and_loader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = []

    def some_source():
        return (b"packet %d" % i for i in range(500))

    def do_something(data):
        done.append(data)

    from imagearchive.compat.splitdataloader import write_split_data

    def example_writer(*_):
        # Get the data source
        data_source: Iterable[bytes] = some_source()
        target_dir = "tmp/training_data"
        write_split_data(target_dir, data_source, splits=128)

    from imagearchive.compat.splitdataloader import SplitDataLoader

    def example_loader(*_):
        # Get the data source
        data_dir = "tmp/training_data"
        loader = SplitDataLoader(data_dir)
        # Supports len()
        print(len(loader))
        # Supports indexing
        data = loader[2]
        assert data == b"packet 2"
        # Supports iteration
        for data in loader.iterate_binwise(shuffle=True):
            do_something(data)

    example_writer()
    example_loader()
    assert sorted(done) == sorted(some_source())
    assert compat.MpQItr is imagearchive.MpQItr
    assert len(list(pathlib.Path("tmp/training_data").glob("bin*.dat"))) == 128
