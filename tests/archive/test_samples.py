"""`Archive.samples`: samples of several members each."""

import numpy as np
import pytest
from support.archives import write_tar

from imagearchive import Archive
from imagearchive.errors import (
    MemberNotFoundError,
    OptionTypeError,
    SampleIndexError,
    UnsupportedMemberError,
)


@pytest.fixture
def web(tmp_path):
    members = {}
    for i in range(5):
        members[f"d/{i:04d}.jpg"] = b"jpg%d" % i
        members[f"d/{i:04d}.json"] = b'{"i": %d}' % i
    # Not adjacent, another alternative, upper case, dots further on.
    members |= {f"d/{i:04d}.cls": b"%d" % i for i in range(5)}
    members |= {"e/a.PNG": b"png", "e/a.CLS": b"7", "e/a.seg.png": b"mask", "e/a.b/c.jpg": b"c"}
    return write_tar(tmp_path / "web.tar", members)


def test_samples_with_extensions_are_tuples(web):
    samples = Archive(web).samples("jpg;png", "cls")
    assert len(samples) == 7
    assert [tuple(map(bytes, samples[i])) for i in range(5)] == [
        (b"jpg%d" % i, b"%d" % i) for i in range(5)
    ]
    assert tuple(map(bytes, samples[5])) == (b"png", b"7")
    assert samples.key(5) == "e/a"
    with pytest.raises(MemberNotFoundError, match=r"e/a\.b/c.*cls"):
        samples[6]
    with pytest.raises(SampleIndexError):
        samples[7]
    with pytest.raises(OptionTypeError):
        samples[1.5]
    assert [sample[0] for sample in samples[1:3]] == [samples[1][0], samples[np.int64(2)][0]]


def test_samples_without_extensions_are_dicts(web):
    samples = Archive(web).samples()
    assert [samples.key(i) for i in range(len(samples))] == [
        *(f"d/{i:04d}" for i in range(5)), "e/a", "e/a.b/c",
    ]  # fmt: skip
    assert {k: bytes(v) for k, v in samples[0].items() if k != "__key__"} == {
        "jpg": b"jpg0", "json": b'{"i": 0}', "cls": b"0",
    }  # fmt: skip
    assert set(samples[5]) == {"__key__", "png", "cls", "seg.png"}
    assert samples[5]["__key__"] == "e/a"


def test_samples_follow_the_rules_of_webdataset(tmp_path):
    names = [
        "__meta__/a.jpg", "__x__", "__b.c__", "README", "a", "a.JPG", "A.jpg", "a.Seg.PNG",
        ".b.jpg", "__b.jpg", "__c/d.jpg", "d/__e__/f.jpg", "d/LICENSE", "d.e/g.tar.GZ",
        "__MACOSX/h.jpg",
    ]  # fmt: skip
    archive = Archive(write_tar(tmp_path / "x.tar", {name: name.encode() for name in names}))
    found = {sample.pop("__key__"): {k: bytes(v).decode() for k, v in sample.items()}
             for sample in archive.samples()}  # fmt: skip
    # What WebDataset 1.0 makes of these names.
    assert found == {
        "a": {"jpg": "a.JPG", "seg.png": "a.Seg.PNG"},
        "A": {"jpg": "A.jpg"},
        "__b": {"jpg": "__b.jpg"},
        "__c/d": {"jpg": "__c/d.jpg"},
        "d/__e__/f": {"jpg": "d/__e__/f.jpg"},
        "d.e/g": {"tar.gz": "d.e/g.tar.GZ"},
        "__MACOSX/h": {"jpg": "__MACOSX/h.jpg"},
    }
    samples = archive.samples("jpg")
    assert [samples.key(i) for i in range(len(samples))] == [
        "a", "A", "__b", "__c/d", "d/__e__/f", "__MACOSX/h",
    ]  # fmt: skip


def test_samples_with_extensions_that_differ_in_case_only_raise(tmp_path):
    archive = Archive(write_tar(tmp_path / "x.tar", {"a.jpg": b"1", "a.JPG": b"2"}))
    with pytest.raises(UnsupportedMemberError, match="several files with the extension 'jpg'"):
        archive.samples()[0]


def test_samples_of_the_same_name_in_two_shards_are_different(tmp_path):
    for number in range(2):
        write_tar(
            tmp_path / f"{number}.tar",
            {
                "0.jpg": b"jpg%d" % number,
                "0.cls": b"%d" % number,
                f"0.only{number}": b"",
            },
        )
    samples = Archive(str(tmp_path / "{0..1}.tar")).samples("jpg", "cls")
    assert [tuple(map(bytes, sample)) for sample in samples] == [(b"jpg0", b"0"), (b"jpg1", b"1")]
    found = list(Archive(str(tmp_path / "{0..1}.tar")).samples())
    for number, sample in enumerate(found):
        assert set(sample) == {"__key__", "jpg", "cls", f"only{number}"}
        assert bytes(sample["cls"]) == b"%d" % number


def test_samples_do_not_take_files_from_another_archive(tmp_path):
    write_tar(tmp_path / "0.tar", {"1.cls": b"other"})
    write_tar(tmp_path / "1.tar", {"1.jpg": b"jpg"})
    archive = Archive(str(tmp_path / "{0..1}.tar"))
    with pytest.raises(MemberNotFoundError, match="'1' has no file with the extension 'cls'"):
        archive.samples("jpg", "cls")[0]
    assert [set(sample) for sample in archive.samples()] == [
        {"__key__", "cls"}, {"__key__", "jpg"},
    ]  # fmt: skip


def test_samples_of_one_archive_may_span_its_files(tmp_path):
    import barecat

    path = str(tmp_path / "data.barecat")
    with barecat.Barecat(path, readonly=False, shard_size_limit=1000) as archive:
        for number in range(8):
            archive[f"{number}.jpg"] = bytes(300)
            archive[f"{number}.cls"] = b"%d" % number
    opened = Archive(path)
    assert len(opened.table.files) > 2
    samples = opened.samples("jpg", "cls")
    assert [bytes(label) for _, label in samples] == [b"%d" % number for number in range(8)]
    assert [set(sample) for sample in opened.samples()] == [{"__key__", "jpg", "cls"}] * 8


def test_samples_repr_shows_the_first_keys_and_reads_nothing(tmp_path):
    members = {f"{k}.{extension}": b"x" for k in range(4) for extension in ("jpg", "cls")}
    with Archive(write_tar(tmp_path / "few.tar", members)) as archive:
        assert repr(archive.samples()) == "Samples(['0', '1', '2', ...], 4 samples)"
        text = repr(archive.samples("png;jpg", "cls"))
        assert text == "Samples(['0', '1', '2', ...], 4 samples, 'png;jpg', 'cls')"
        assert repr(archive.samples("nothing")) == "Samples([], 0 samples, 'nothing')"
