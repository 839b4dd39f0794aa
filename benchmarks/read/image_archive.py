"""Claim: ``read(i)`` takes half a microsecond, ``dataset[i]`` four, a look-up by name one.

Measures ``read(i)`` by both storages, ``dataset[i]`` with a loader that only reads, and look-ups.

    python -m benchmarks.read.image_archive [--count 100000]
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness.interleave import compare, report
from benchmarks.harness.synthetic import million_names, write_members
from imagearchive import Archive, ImageArchive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="accesses a round")
    count = parser.parse_args().count
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.tar")
        data = random.bytes(58_000)
        write_members(path, ((f"{i % 10}/{i:05d}.jpg", data) for i in range(4000)))
        mapped = ImageArchive(path, loader=read_file)
        pread = ImageArchive(path, loader=read_file, storage="pread")
        order = random.integers(0, len(mapped), count).tolist()
        files = [io.BytesIO(bytes(mapped.read(i))) for i in range(4000)]

        def reads(dataset):
            read = dataset.read
            for index in order:
                read(index)

        def samples():
            for index in order:
                mapped[index]

        def loader_alone():
            for index in order:
                read_file(files[index])

        times = compare(
            {
                "read(i), mapped": lambda: reads(mapped),
                "read(i), pread of 58 kB": lambda: reads(pread),
                "dataset[i] with a loader that reads": samples,
                "that loader alone": loader_alone,
            }
        )
        report("4,000 members of 58 kB", times, "read(i), mapped", count, "read")

        names = million_names()
        large = Path(folder, "million.tar")
        write_members(large, ((name, b"") for name in names))
        archive = Archive(large)
        wanted = [names[i] for i in random.integers(0, len(names), count)]
        wanted_bytes = [name.encode() for name in wanted]
        positions = {name: i for i, name in enumerate(names)}

        def by_name():
            position = archive.position
            for name in wanted:
                position(name)

        def by_bytes():
            find = archive.table.lookup.find
            for name in wanted_bytes:
                find(name)

        def by_dict():
            for name in wanted:
                positions[name]

        times = compare(
            {
                "position of a name": by_name,
                "the binary search alone": by_bytes,
                "a dict of all names (for scale)": by_dict,
            }
        )
        report("look-ups among 1,000,000 names", times, "position of a name", count, "look-up")


def read_file(file):
    """Read the whole file, without decoding, so that the rest is the overhead of the dataset."""
    file.seek(0)
    return file.read()


if __name__ == "__main__":
    main()
