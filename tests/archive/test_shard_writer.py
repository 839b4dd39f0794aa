"""Writing samples to a row of TAR archives."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from support.files import tar_names

import imagearchive
from imagearchive import SampleArchive, ShardWriter
from imagearchive.errors import (
    ClosedError,
    DecodeError,
    OptionError,
    OptionTypeError,
    TargetExistsError,
    UnsafePathError,
    UnsupportedMemberError,
)

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def sample(number, **fields):
    return {"__key__": f"{number:04}", "png": PIXELS + number, "cls": number, **fields}


def test_shard_writer_encodes_values_by_extension(tmp_path):
    with ShardWriter(tmp_path / "a-{}.tar") as writer:
        writer.write(
            sample(7, json={"x": [1]}, npy=PIXELS, bin=b"as it is", none=None, __url__="left out")
            | {"caption.txt": "größe"}
        )
        assert len(writer) == 1
    assert writer.paths == [str(tmp_path / "a-000000.tar")]
    with tarfile.open(writer.paths[0]) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    names = ["png", "cls", "json", "npy", "bin", "caption.txt"]
    assert list(content) == [f"0007.{name}" for name in names]
    np.testing.assert_array_equal(Image.open(io.BytesIO(content["0007.png"])), PIXELS + 7)
    assert content["0007.cls"] == b"7"
    assert json.loads(content["0007.json"]) == {"x": [1]}
    np.testing.assert_array_equal(np.load(io.BytesIO(content["0007.npy"])), PIXELS)
    assert content["0007.bin"] == b"as it is"
    assert content["0007.caption.txt"].decode() == "größe"


def test_shard_writer_output_is_read_as_samples(tmp_path):
    with ShardWriter(tmp_path / "a-{:03}.tar", shard_samples=4) as writer:
        for number in range(10):
            writer.write(sample(number))
    assert writer.pattern == str(tmp_path / "a-{000..002}.tar")
    samples = SampleArchive(writer.pattern, fields={"image": "{key}.png", "label": "{key}.cls"})
    assert [one["label"] for one in samples] == list(range(10))
    np.testing.assert_array_equal(samples[9]["image"], PIXELS + 9)
    pairs = imagearchive.open(writer.pattern).samples("png", "cls")
    assert [label for _, label in pairs] == [str(number).encode() for number in range(10)]


def test_shard_writer_keeps_to_the_size(tmp_path):
    size = 40 * 1024
    with ShardWriter(tmp_path / "a-{}.tar", shard_size="40k") as writer:
        for number in range(12):
            writer.write({"__key__": str(number), "bin": bytes(9000 + number)})
        writer.write({"__key__": "large", "bin": bytes(3 * size)})
        writer.write({"__key__": "last", "bin": b""})
    sizes = [os.path.getsize(path) for path in writer.paths]
    assert [len(tar_names(path)) for path in writer.paths] == [4, 4, 4, 1, 1]
    assert [number for number, one in enumerate(sizes) if one > size] == [3]


@pytest.mark.parametrize("limit", [50_000, 123_457])
def test_shard_writer_counts_long_names_and_the_end_of_an_archive(tmp_path, limit):
    with ShardWriter(tmp_path / "a-{}.tar", shard_size=limit) as writer:
        for number in range(60):
            key = f"{'long' * (number % 2 * 40)}/{number}".lstrip("/")
            writer.write({"__key__": key, "bin": bytes(number * 97)})
    sizes = [os.path.getsize(path) for path in writer.paths]
    assert len(sizes) > 1
    assert max(sizes) <= limit


def test_shard_writer_publishes_each_archive_when_it_is_full(tmp_path):
    class Failure(Exception):
        pass

    with pytest.raises(Failure), ShardWriter(tmp_path / "a-{}.tar", shard_samples=2) as writer:
        for number in range(5):
            writer.write(sample(number))
        assert writer.paths == [str(tmp_path / f"a-00000{number}.tar") for number in range(2)]
        with imagearchive.open(writer.paths[1]) as archive:
            assert list(archive) == ["0002.png", "0002.cls", "0003.png", "0003.cls"]
        raise Failure
    expected = [f"a-00000{number}.{end}" for number in range(2) for end in ("idx.npy", "tar")]
    assert sorted(os.listdir(tmp_path)) == expected
    with pytest.raises(ClosedError, match="closed"):
        writer.write(sample(9))


def test_shard_writer_same_samples_give_the_same_bytes(tmp_path):
    for name in "ab":
        with ShardWriter(tmp_path / f"{name}-{{}}.tar", shard_samples=2) as writer:
            for number in range(3):
                writer.write(sample(number))
    for number in range(2):
        first, second = (tmp_path / f"{name}-00000{number}.tar" for name in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_shard_writer_taken_name_is_refused_at_once(tmp_path):
    (tmp_path / "a-000000.tar").write_bytes(b"mine")
    with pytest.raises(TargetExistsError, match="a-000000"):
        ShardWriter(tmp_path / "a-{}.tar")
    with ShardWriter(tmp_path / "a-{}.tar", overwrite=True) as writer:
        writer.write(sample(1))
    assert tar_names(writer.paths[0]) == ["0001.png", "0001.cls"]


def test_shard_writer_left_over_shards_are_reported(tmp_path, caplog):
    for count in (5, 2):
        with ShardWriter(tmp_path / "a-{}.tar", shard_samples=1, overwrite=True) as writer:
            for number in range(count):
                writer.write(sample(number))
    assert "a-000002.tar: left over" in caplog.text


@pytest.mark.parametrize("path", ["a.tar", "a-{}.zip", "a-{}-{}.tar", "{}/a.tar", "a-{0}.tar"])
def test_shard_writer_path_without_one_number_is_refused(tmp_path, path):
    with pytest.raises(OptionError, match=r"train-\{:05d\}\.tar"):
        ShardWriter(tmp_path / path)


def test_shard_writer_wrong_samples_are_refused_and_nothing_is_written(tmp_path):
    with ShardWriter(tmp_path / "a-{}.tar") as writer:
        for wrong in ({"png": PIXELS}, 3, {"__key__": "a.b", "cls": 1}, {"__key__": "x"}):
            with pytest.raises(OptionError):
                writer.write(wrong)
        with pytest.raises(OptionTypeError, match="__key__ must be a str"):
            writer.write(sample(1) | {"__key__": 7})
        with pytest.raises(UnsafePathError):
            writer.write(sample(1) | {"__key__": "../x"})
        with pytest.raises(UnsupportedMemberError, match="register_codec"):
            writer.write(sample(1, strange=[1]))
        with pytest.raises(DecodeError, match=r"0001\.jpg"):
            writer.write(sample(1, jpg=PIXELS.astype(float)))
        writer.write(sample(1))
        with pytest.raises(OptionError, match="keys must differ"):
            writer.write(sample(1))
    assert tar_names(writer.paths[0]) == ["0001.png", "0001.cls"]
