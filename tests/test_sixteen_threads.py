"""Sixteen threads share one archive, dataset, loader, decoder, or cache.

Each thread must get what a single thread gets. Most of these tests can fail only where Python runs
without the GIL, or under ThreadSanitizer; `tools/sanitize_threads.sh` runs them there.
"""

import contextlib
import gc
import gzip
import itertools
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.archives import tar_bytes, zip_bytes
from support.samples import FILES, TRAINING, loader_threads
from support.threads import collide

import imagearchive
from imagearchive import Archive, DataLoader, ImageArchive, LazyNPZDataset
from imagearchive.errors import DecodeError, OptionError
from imagearchive.images.decode import decode_image
from imagearchive.images.render import Decoder
from imagearchive.storage.crc import PositionSet
from imagearchive.storage.lru import LRUCache
from imagearchive.storage.mapping import Mapping, damaged_mappings
from imagearchive.storage.path_options import BlockCacheOptions
from imagearchive.storage.remote.block_cache import open_blocks
from imagearchive.storage.remote.block_file import BLOCK
from imagearchive.storage.remote.prefetcher import Owner, Prefetcher

MEMBERS = {f"class_{index % 4}/{index:03d}.jpg": data for index, data in enumerate(FILES)}
# Longer than what is decompressed as a whole.
NOISE = {f"noise/{n}.bin": np.random.default_rng(n).bytes(1 << 20) for n in range(3)}
ROUNDS = 3
IMPORT_ALL = """
import importlib, pkgutil, sys
def gil():
    return getattr(sys, "_is_gil_enabled", lambda: True)()
import numpy, PIL.Image, tqdm, platformdirs
before = gil()
import imagearchive
sys.modules["torch"] = None  # takes long, and decides for itself
for module in pkgutil.walk_packages(imagearchive.__path__, "imagearchive."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            # An optional dependency is not installed.
            assert not (error.name or "").startswith("imagearchive"), error
        assert gil() == before, module.name
"""


def shards(members, count):
    """Return the members in so many dicts."""
    return [dict(list(members.items())[number::count]) for number in range(count)]


@pytest.fixture
def archives(tmp_path):
    """Arguments of `Archive`, by kind. Each contains MEMBERS; the compressed one also NOISE."""
    parts = shards(MEMBERS, 5)
    write = {
        "images.tar": tar_bytes(MEMBERS),
        "images.zip": zip_bytes(MEMBERS, zipfile.ZIP_DEFLATED),
        "images.tar.gz": gzip.compress(tar_bytes(MEMBERS | NOISE), 1),
        "outer.tar": tar_bytes(
            {f"{n}.zip": zip_bytes(part, zipfile.ZIP_DEFLATED) for n, part in enumerate(parts)}
        ),
        **{f"part-{n}.tar": tar_bytes(part) for n, part in enumerate(shards(MEMBERS, 7))},
    }
    for name, data in write.items():
        (tmp_path / name).write_bytes(data)
    paths = {name: str(tmp_path / name) for name in write}
    return {
        "tar": {"path": paths["images.tar"], "storage": "pread"},
        "mapped": {"path": paths["images.tar"], "storage": "mmap"},
        "zip": {"path": paths["images.zip"]},
        "compressed": {"path": paths["images.tar.gz"]},
        "nested": {"path": paths["outer.tar"], "nested": True, "max_open": 2},
        "parts": {"path": str(tmp_path / "part-*.tar"), "max_open": 2},
    }


@pytest.mark.parametrize("kind", ["tar", "mapped", "zip", "compressed", "nested", "parts"])
def test_archive_shared_by_threads_returns_every_member(archives, kind):
    expected = {name.rpartition("/")[2]: data for name, data in (MEMBERS | NOISE).items()}
    with Archive(**archives[kind]) as archive:
        archive.keep_decompressed(1 << 16)
        names = list(archive)

        def read(number):
            for turn in range(ROUNDS):
                for step in range(len(names)):
                    name = names[(step * 5 + number * (turn + 1)) % len(names)]
                    assert bytes(archive[name]) == expected[name.rpartition("/")[2]]
                    assert name in archive

        collide(read)


def test_archive_opened_and_closed_by_threads_leaves_no_damage(archives):
    def read(number):
        for _ in range(ROUNDS * 2):
            with Archive(**archives["mapped"]) as archive:
                name = f"class_{number % 4}/{number:03d}.jpg"
                assert bytes(archive[name]) == MEMBERS[name]

    collide(read)
    assert damaged_mappings() == 0


def test_mappings_made_by_threads_are_all_guarded(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\1" * 8192)
    made = []

    def map_and_drop(number):
        with path.open("rb") as file:
            for _ in range(50):
                Mapping(file.fileno(), 8192)
            made.append(Mapping(file.fileno(), 8192))

    collide(map_and_drop)
    assert damaged_mappings() == 0
    os.truncate(path, 4096)
    # Whichever mapping was made while others ended, its missing page reads as zeros.
    assert [bytes(memoryview(mapping)[4096:4100]) for mapping in made] == [bytes(4)] * 16
    assert damaged_mappings() == 16
    assert all(mapping.damaged for mapping in made)
    made.clear()
    assert damaged_mappings() == 0


def test_image_archive_shared_by_threads_returns_every_sample(archives):
    with ImageArchive(archives["parts"]["path"], cache_size=8) as dataset:
        expected = [dataset[index] for index in range(len(dataset))]

        def read(number):
            for turn in range(ROUNDS):
                for step in range(len(dataset)):
                    index = (step * 5 + number * (turn + 1)) % len(dataset)
                    image, label = dataset[index]
                    assert label == expected[index][1]
                    assert image.tobytes() == expected[index][0].tobytes()

        collide(read)


def test_lazy_npz_dataset_shared_by_threads_returns_every_sample(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    boxes = np.empty(40, object)
    boxes[:] = [np.full((k % 3, 4), k, np.float32) for k in range(40)]
    np.savez_compressed(tmp_path / "data.npz", images=images, bboxes=boxes, labels=np.arange(40))
    # It opens its file and locates its columns in whichever thread comes first.
    dataset = LazyNPZDataset(tmp_path / "data.npz", cache_size=4)

    def read(number):
        for step in range(120):
            index = (step * 7 + number) % 40
            sample = dataset[index]
            np.testing.assert_array_equal(sample["image"], images[index])
            np.testing.assert_array_equal(sample["bboxes"], boxes[index])
            assert sample["labels"] == index

    collide(read)


@pytest.mark.parametrize("workers", [0, 4])
def test_loader_iterator_shared_by_threads_delivers_each_batch_once(archives, workers):
    options = {"transform": TRAINING, "output": "numpy", "num_workers": workers, "shuffle": True}
    with DataLoader(archives["tar"]["path"], 4, **options) as loader:
        expected = sorted(batch[0].tobytes() for batch in loader)
        loader.set_epoch(0)
        batches = iter(loader)

        def take(_number):
            taken = []
            for images, _labels in batches:
                loader.state_dict()
                taken.append(images.tobytes())
            return taken

        assert sorted(itertools.chain(*collide(take))) == expected


def test_loader_iterated_by_threads_delivers_an_epoch_to_each(archives):
    with DataLoader(
        archives["parts"]["path"], 8, transform=TRAINING, output="numpy", num_workers=2
    ) as loader:
        loader.set_epoch(0)
        expected = [labels.tolist() for _images, labels in loader]
        assert collide(lambda _: [labels.tolist() for _images, labels in loader]) == [expected] * 16


def test_loader_closed_while_threads_iterate_ends_all_iterators(archives):
    # Without the GIL, loaders of other tests may still wait for the garbage collector.
    gc.collect()
    assert loader_threads() == []
    loader = DataLoader(
        archives["tar"]["path"], 1, transform=TRAINING, output="numpy", num_workers=2
    )
    running = [iter(loader) for _ in range(15)]
    closing = threading.Event()

    def work(number):
        if number == 15:
            closing.wait()
            loader.close()
            return
        for _batch in running[number]:
            closing.set()

    collide(work)
    assert loader_threads() == []


def test_decoder_shared_by_threads_decodes_or_refuses(archives):
    decoder = Decoder()
    expected = [decode_image(data) for data in FILES]

    def decode(number):
        for index in range(number, number + 40):
            # Being refused must not make the decoder free for others.
            for refused in (b"\x89PNG", b"\xff\xd8\xff", b"GIF"):
                with pytest.raises(DecodeError):
                    decoder.decode(refused)
            # It is refused while another thread uses the decoder.
            with contextlib.suppress(OptionError):
                image = decoder.decode(FILES[index % len(FILES)])
                np.testing.assert_array_equal(image, expected[index % len(FILES)])

    collide(decode)


def test_position_set_keeps_every_position_that_threads_add():
    positions = PositionSet(16 * 2000)

    def add(number):
        for step in range(2000):
            # Neighbors share a byte.
            positions.add(16 * step + number)

    collide(add)
    assert all(position in positions for position in range(16 * 2000))


def test_lru_cache_drops_each_value_of_threads_once():
    dropped = []
    cache = LRUCache[int, int](5, dropped.append)

    def work(number):
        for step in range(500):
            key = number * 500 + step
            assert cache.setdefault(key, key) == key
            assert cache.get(key - 3, key - 3) == key - 3
            cache.values()

    collide(work)
    cache.clear()
    assert sorted(dropped) == list(range(16 * 500))


def test_blocks_that_threads_need_at_once_reach_all_of_them(tmp_path):
    count, requests = 80, []
    content = np.random.default_rng(1).bytes(count * BLOCK)
    blocks = open_blocks(BlockCacheOptions(str(tmp_path), 1 << 30), "name", "1", len(content))

    def request(offset, size):
        requests.append(offset)
        # The other threads come meanwhile.
        time.sleep(0.0005)
        return memoryview(content[offset : offset + size])

    for start in range(0, len(content), BLOCK):
        read = collide(lambda number, at=start: blocks.fetch(at + number, 1000, request))
        for number, data in enumerate(read):
            assert data == content[start + number : start + number + 1000]
    # A thread that comes late, between the cache and the request, makes another one.
    assert sorted({*requests}) == [*range(0, len(content), BLOCK)]


def test_ranges_of_one_request_are_read_by_threads():
    content = np.random.default_rng(1).bytes(1 << 12)
    fetcher = Prefetcher()
    owner = Owner(lambda offset, size: memoryview(content[offset : offset + size]))
    for _ in range(20):
        ranges = [(16 * number, 16) for number in range(len(content) // 16)]
        fetcher.announce(owner, ranges)

        def read(number, ranges=ranges):
            return [fetcher.read(owner, *one) for one in ranges[number::16]]

        for number, found in enumerate(collide(read)):
            for (offset, size), data in zip(ranges[number::16], found):
                assert data in (None, content[offset : offset + size])
    assert fetcher.used == 0
    fetcher.close()


def test_imports_leave_the_gil_as_it_is():
    environment = {**os.environ, "PYTHONPATH": str(Path(imagearchive.__file__).parents[1])}
    # A module that needs the GIL turns it on with a warning.
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", IMPORT_ALL]
    subprocess.run(command, env=environment, check=True)
