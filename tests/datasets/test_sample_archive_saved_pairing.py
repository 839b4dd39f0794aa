"""`SampleArchive`: the pairing that is saved beside an archive."""

import io

import numpy as np
import pytest
from support.archives import encoded, write_tar
from support.sample_archives import MASKS, VOC, WEB, same
from support.samples import encoded_image

from imagearchive import SampleArchive


def count_pairings(monkeypatch):
    calls = []
    from imagearchive.datasets.samples import open_fields as module

    original = module.pair_members

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, "pair_members", counted)
    return calls


def test_pairing_is_saved_and_mapped_and_made_again_when_the_archive_changes(voc, monkeypatch):
    calls = count_pairings(monkeypatch)
    SampleArchive(voc, fields=VOC)
    same(SampleArchive(voc, fields=VOC)[2], SampleArchive(voc, fields=VOC)[2])
    assert len(calls) == 1
    SampleArchive(voc, fields=VOC, keys=["2007_1"])
    SampleArchive(voc, fields={"image": VOC["image"]})
    assert len(calls) == 3
    write_tar(voc, {"VOC/JPEGImages/x.jpg": encoded_image(5), "VOC/Masks/x.png": encoded(MASKS[1])})
    dataset = SampleArchive(voc, fields=VOC)
    assert (dataset.key(0), len(dataset), len(calls)) == ("x", 1, 4)
    # The new one has replaced the old one.
    assert len(list(voc.parent.glob("voc.*.idx.npy"))) == 3


def test_pairing_of_several_archives_is_saved_in_the_cache(shards, monkeypatch):
    calls = count_pairings(monkeypatch)
    for _ in range(2):
        assert len(SampleArchive(shards, fields=WEB)) == 6
    assert len(calls) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_damaged_pairing_file_is_made_again(voc, damage):
    SampleArchive(voc, fields=VOC)
    (saved,) = voc.parent.glob("voc.*.idx.npy")
    data = saved.read_bytes()
    if damage == "cut":
        saved.write_bytes(data[: len(data) // 2])
    elif damage == "empty":
        saved.write_bytes(b"")
    else:
        np.save(saved, np.arange(5.0))
    assert len(SampleArchive(voc, fields=VOC)) == 4


def test_pairing_file_of_positions_beyond_the_archive_is_refused(voc):
    from imagearchive.errors import CorruptIndexError

    SampleArchive(voc, fields=VOC)
    (saved,) = voc.parent.glob("voc.*.idx.npy")
    data = bytearray(saved.read_bytes())
    array = np.load(io.BytesIO(bytes(data)))
    start = data.index(array.tobytes())
    data[start : start + array.nbytes] = np.full_like(array, 1000).tobytes()
    saved.write_bytes(bytes(data))
    with pytest.raises(CorruptIndexError, match="delete it"):
        SampleArchive(voc, fields=VOC)[0]
