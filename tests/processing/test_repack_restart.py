"""`repack` after an interrupt, and two calls at once."""

import os
from pathlib import Path

import pytest
from support.repacked import size_of

import imagearchive
from imagearchive import Boxes, ImageArchive, SampleArchive, repack
from imagearchive.errors import TargetExistsError


def test_repack_interrupted_continues_after_the_last_complete_shard(folder, tmp_path, caplog):
    class Interrupt(BaseException):
        pass

    whole = repack(folder, tmp_path / "whole-{}.tar", resize=20, shuffle=True, shard_samples=3)
    done = []

    def interrupt(count):
        done.append(count)
        if sum(done) == 8:
            raise Interrupt

    arguments = {"resize": 20, "shuffle": True, "shard_samples": 3}
    with pytest.raises(Interrupt):
        repack(folder, tmp_path / "a-{}.tar", **arguments, progress=interrupt)
    assert sorted(path.name for path in tmp_path.glob("a-*.tar")) == [
        "a-000000.tar",
        "a-000001.tar",
    ]
    times = [os.stat(tmp_path / f"a-00000{number}.tar").st_mtime_ns for number in range(2)]
    with pytest.raises(TargetExistsError):
        repack(folder, tmp_path / "a-{}.tar", **arguments, seed=5)
    result = repack(folder, tmp_path / "a-{}.tar", **arguments)
    assert "continuing after 6 samples in 2 shards" in caplog.text
    assert [os.stat(path).st_mtime_ns for path in result.paths[:2]] == times
    assert result.samples == 4
    for first, second in zip(whole.paths, result.paths, strict=True):
        assert Path(first).read_bytes() == Path(second).read_bytes()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".repack")]
    with pytest.raises(TargetExistsError):
        repack(folder, tmp_path / "a-{}.tar", **arguments)
    repack(folder, tmp_path / "a-{}.tar", **arguments, overwrite=True)


class Stopped(Exception):
    pass


def stop_after(count):
    done = []

    def progress(step):
        done.append(step)
        if sum(done) >= count:
            raise Stopped

    return progress


@pytest.mark.parametrize("size", [2**30, "1GB", "1024MB"])
def test_repack_interrupted_continues_however_the_size_is_written(folder, tmp_path, size):
    with pytest.raises(Stopped):
        repack(
            folder, tmp_path / "a-{}.tar", shard_samples=3, shard_size=size,
            progress=stop_after(8),
        )  # fmt: skip
    assert repack(folder, tmp_path / "a-{}.tar", shard_samples=3).samples == 4


def test_repack_interrupted_does_not_continue_with_other_labels(folder, tmp_path):
    def dataset(label):
        names = [f"cat/{number:02}" for number in range(1, 10, 2)]
        table = {"id": names, "a": [0.5] * 5, "b": [1.5] * 5}
        return ImageArchive(folder, table=table, image="id", label=label)

    with pytest.raises(Stopped):
        repack(dataset("a"), tmp_path / "a-{}.tar", shard_samples=1, progress=stop_after(4))
    with pytest.raises(TargetExistsError):
        repack(dataset("b"), tmp_path / "a-{}.tar", shard_samples=1)
    repack(dataset("a"), tmp_path / "a-{}.tar", shard_samples=1)


def test_repack_interrupted_does_not_continue_with_other_fields(pairs, tmp_path):
    def samples(**options):
        boxes = Boxes("box/{key}.txt", labels="classes", **options)
        return SampleArchive(tmp_path / "pairs.tar", fields={"boxes": boxes}, first_dot=False)

    with pytest.raises(Stopped):
        repack(samples(), tmp_path / "a-{}.tar", shard_samples=1, progress=stop_after(4))
    with pytest.raises(TargetExistsError):
        repack(samples(format="xywh"), tmp_path / "a-{}.tar", shard_samples=1)


def test_repack_interrupted_overwrite_is_not_continued_over_older_shards(folder, tmp_path):
    target = tmp_path / "a-{}.tar"
    repack(folder, target, resize=20, shard_samples=3)
    options = {"resize": 10, "shard_samples": 3}
    with pytest.raises(Stopped):
        repack(folder, target, **options, overwrite=True, progress=stop_after(5))
    with pytest.raises(TargetExistsError):
        repack(folder, target, **options)


def test_repack_two_calls_at_once_one_is_refused(folder, tmp_path):
    target = tmp_path / "a-{}.tar"
    errors = []

    def again(_):
        with pytest.raises(TargetExistsError, match="another call of repack is writing"):
            repack(folder, target, overwrite=bool(errors))
        errors.append(True)

    result = repack(folder, target, resize=9, progress=again)
    assert len(errors) > 1
    assert result.samples == 10
    assert {size_of(data) for data in imagearchive.open(result.paths).values()} == {(12, 9)}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
