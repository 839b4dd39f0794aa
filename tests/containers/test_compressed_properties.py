"""Compressed streams against the standard library and zstandard: any content, any damage.

Whatever the bytes are, the result is what the peer reads, or one of our errors.
"""

import bz2
import functools
import gzip
import lzma
import random
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compressed import COMPRESS, tar_of, zstd_frames
from support.deflate import photo

import imagearchive
from imagearchive.containers.derived import find_stream_format
from imagearchive.errors import CorruptIndexError, ImageArchiveError, StaleIndexError
from imagearchive.storage.checkpoints import CheckpointBuilder
from imagearchive.storage.compressed import CompressedStorage
from imagearchive.storage.local import MemoryStorage
from imagearchive.storage.protocol import UNKNOWN_SIZE
from imagearchive.storage.span_cache import SpanCache
from imagearchive.storage.stream_format import ForwardStorage


def decompress_zstd(data):
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    return reader.read()


PEERS = {
    "gzip": (lambda data, level: gzip.compress(data, level), gzip.decompress),
    "bzip2": (lambda data, level: bz2.compress(data, max(level, 1)), bz2.decompress),
    "xz": (lambda data, level: lzma.compress(data, preset=level), lzma.decompress),
    "zstd": (lambda data, level: zstandard.compress(data, level + 1), decompress_zstd),
    "zstd, frames": (lambda data, level: zstd_frames(data, 5000, level=level + 1), decompress_zstd),
}
peers = pytest.mark.parametrize("peer", PEERS)

# Runs, text that compresses well, and noise, long enough for several checkpoints.
RUNS = st.builds(lambda byte, n: bytes([byte]) * n, st.integers(0, 255), st.integers(0, 400_000))
NOISE = st.builds(
    lambda seed, n: random.Random(seed).randbytes(n), st.integers(0, 9), st.integers(0, 300_000)
)
PARTS = st.lists(st.one_of(st.binary(max_size=3000), RUNS, NOISE), max_size=6)


def open_stream(data, where="x"):
    """Return a stream with checkpoints, as opening an archive builds them."""
    file = MemoryStorage(data)
    file.path = where
    format = find_stream_format(data[:512])
    builder = CheckpointBuilder(len(data))
    forward = ForwardStorage(
        format.stream(file, 0, len(data), UNKNOWN_SIZE, where).start(builder), where
    )
    forward.drain()
    if forward.damage is not None:
        raise forward.damage
    stream = format.stream(file, 0, len(data), forward.size, where)
    return CompressedStorage(stream, builder.finish(stream))


@settings(max_examples=25)
@given(st.data())
@peers
def test_compressed_stream_any_ranges_are_those_of_the_peer(peer, data):
    compress, decompress = PEERS[peer]
    plains = data.draw(st.lists(PARTS.map(b"".join), min_size=1, max_size=3))
    stored = b"".join(compress(plain, data.draw(st.integers(0, 4))) for plain in plains)
    expected = decompress(stored)
    assert expected == b"".join(plains)
    storage = open_stream(stored)
    assert storage.size == len(expected)
    if data.draw(st.booleans()):
        storage.share_spans(SpanCache(data.draw(st.integers(1, 1 << 20)), 2))
    for _ in range(8):
        offset = data.draw(st.integers(0, len(expected)))
        size = data.draw(st.integers(0, len(expected) - offset))
        assert storage.read(offset, size) == expected[offset : offset + size]


@settings(max_examples=60)
@given(st.data())
@peers
def test_compressed_stream_with_any_damage_is_refused_or_correct(peer, data):
    compress, decompress = PEERS[peer]
    # zstandard writes no checksum unless asked to, so damage to such a frame may go unnoticed.
    plain = random.Random(data.draw(st.integers(0, 5))).randbytes(2000) + bytes(30_000)
    stored = compress(plain, 1) if peer != "zstd" else zstd_frames(plain, 1 << 20)
    damaged = bytearray(stored)
    kind = data.draw(st.sampled_from(["flip", "cut", "splice", "swap", "tail"]))
    place = data.draw(st.integers(0, len(stored) - 1))
    other = data.draw(st.integers(0, len(stored) - 1))
    if kind == "flip":
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[place:]
    elif kind == "splice":
        damaged[place:place] = compress(b"other", 1)
    elif kind == "swap":
        low, high = sorted((place, other))
        damaged = damaged[:low] + damaged[high:] + damaged[low:high]
    else:
        damaged += data.draw(st.binary(min_size=1, max_size=40))
    if find_stream_format(bytes(damaged[:512])) is None:
        return
    try:
        storage = open_stream(bytes(damaged))
        found = bytes(storage.read(0, storage.size))
    except ImageArchiveError:
        return
    # What is whole may be followed by something else that is whole.
    pieces = [plain, b"other" + plain, plain + b"other"]
    halves = [plain[:low] + b"other" + plain[low:] for low in range(0, len(plain) + 1, 5000)]
    # Whole frames or blocks in another order are a whole stream, too, as the peer says.
    assert found in (pieces + halves) or found == decompress(bytes(damaged))


@pytest.mark.parametrize("name", COMPRESS)
def test_compressed_index_of_another_archive_is_refused(name, tmp_path):
    members = {f"{number}.jpg": photo(20_000, number) for number in range(8)}
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    one.write_bytes(COMPRESS[name](tar_of(members)))
    two.write_bytes(COMPRESS[name](tar_of({**members, "0.jpg": photo(20_000, 99)})))
    imagearchive.open(one).close()
    index = tmp_path / "one.idx.npy"
    try:
        with imagearchive.open(two, ipath=index) as archive:
            assert archive["0.jpg"] == photo(20_000, 99)
    except (StaleIndexError, CorruptIndexError):
        pass
    # Beside an archive of that name, an index of another one is built again.
    index.rename(tmp_path / "two.idx.npy")
    one.unlink()
    with imagearchive.open(two) as archive:
        assert archive["0.jpg"] == photo(20_000, 99)


@pytest.mark.parametrize("name", COMPRESS)
def test_compressed_empty_and_short_files_are_refused(name, tmp_path):
    path = tmp_path / "x.tar"
    whole = COMPRESS[name](b"")
    # One of the formats adds thousands of zeros.
    for length in {*range(min(len(whole), 200)), len(whole) - 1, len(whole)}:
        path.write_bytes(whole[:length])
        with pytest.raises(ImageArchiveError):
            imagearchive.open(path)


@functools.cache
def six_photos(name):
    """Return members, and a compressed TAR of them."""
    members = {f"{number}.jpg": photo(30_000, number) for number in range(6)}
    return members, COMPRESS[name](tar_of(members))


@settings(max_examples=40)
@given(st.data())
@pytest.mark.parametrize("name", ["gzip", "bgzip", "bzip2", "xz, blocks", "zstd, frames"])
def test_compressed_archive_changed_after_its_index_gives_errors_or_its_samples(name, data):
    members, compressed = six_photos(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.tar")
        path.write_bytes(compressed)
        imagearchive.open(path).close()
        stored = bytearray(path.read_bytes())
        stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(stored)
        for _ in ("stale", "built again"):
            try:
                with imagearchive.open(path) as archive:
                    assert dict(archive) == members
            except ImageArchiveError:
                pass
