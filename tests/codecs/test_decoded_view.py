"""`DecodedView` as a mapping."""

import gzip
import pickle
import zipfile

import pytest
from support.codecs import PIXELS
from support.threads import run_in_threads

import imagearchive
from imagearchive.codecs import DecodedView, decode, encode
from imagearchive.errors import (
    DecodeError,
    LimitError,
    OptionTypeError,
    UnsupportedMemberError,
)


def members():
    return {
        "a.png": encode("a.png", PIXELS),
        "b.json": b'{"k": 1}',
        "c.unknown": b"raw",
        "noext": b"raw too",
        ".json": b"hidden",
        "d.e.txt": b"text",
    }


def test_view_is_a_mapping():
    view = DecodedView(members())
    assert len(view) == 6
    assert list(view) == list(members())
    assert "a.png" in view
    assert "nope.png" not in view
    assert view["b.json"] == {"k": 1}
    assert view["d.e.txt"] == "text"
    assert view["a.png"].shape == (12, 17, 3)
    assert DecodedView(members(), mode="L")["a.png"].shape == (12, 17, 1)
    assert view.get("nope.json", 5) == 5
    with pytest.raises(KeyError):
        view["nope.json"]
    with pytest.raises(TypeError):
        view["a.txt"] = 1
    with pytest.raises(OptionTypeError, match="needs a mapping"):
        DecodedView([1, 2])
    assert pickle.loads(pickle.dumps(view))["b.json"] == {"k": 1}


@pytest.mark.parametrize("name", ["c.unknown", "noext", ".json"])
def test_view_unknown_extension_is_refused_but_items_continue(name):
    view = DecodedView(members())
    with pytest.raises(UnsupportedMemberError, match=r"register_codec"):
        view[name]
    with pytest.raises(NotImplementedError):
        view[name]
    assert view.get(name, "default") == "default"
    assert not view.knows(name)
    items = dict(view.items())
    assert items[name] == members()[name]
    assert items["b.json"] == {"k": 1}
    assert list(view.values())[1] == {"k": 1}
    assert len(view.items()) == 6


def test_view_items_continue_after_a_damaged_member():
    view = DecodedView({"a.json": b"1", "b.json": b"{", "c.json": b"3"})
    values = iter(view.items())
    assert next(values) == ("a.json", 1)
    with pytest.raises(DecodeError, match=r"b\.json"):
        next(values)
    assert next(values) == ("c.json", 3)
    with pytest.raises(StopIteration):
        next(values)


@pytest.mark.parametrize("name", ["x\n.json", "x" * 65536 + ".json", "\udcff.json", "../x.json"])
def test_view_hostile_name_is_shortened_in_messages(name):
    assert DecodedView({name: b"1"})[name] == 1
    with pytest.raises(DecodeError) as caught:
        decode(name, b"{")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_view_own_codecs_stay_in_it():
    view, other = DecodedView({"x.up": b"a"}), DecodedView({"x.up": b"a"})
    view.register_codec("up", str.encode, lambda data: str(data, "ascii").upper())
    assert view["x.up"] == "A"
    assert view.get("x.up") == "A"
    assert view.encode("y.up", "b") == b"b"
    with pytest.raises(UnsupportedMemberError):
        other["x.up"]


def test_view_is_shared_by_threads():
    view = DecodedView({f"{i}.png": encode("x.png", PIXELS ^ i) for i in range(20)})

    def work(_):
        return [i for i in range(20) if (view[f"{i}.png"] != PIXELS ^ i).any()]

    assert run_in_threads(work) == [[]] * 4


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.json", b"[" + b"{}," * 5_000_000 + b"{}]"),
        ("x.msgpack", b"\xdd" + (5_000_000).to_bytes(4, "big") + b"\x80" * 5_000_000),
        ("x.txt.gz", gzip.compress(bytes(100_000_000))),
    ],
)
def test_view_of_a_compressed_archive_limits_what_its_stored_bytes_decode_to(name, data, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    with imagearchive.open(tmp_path / "x.zip") as archive:
        assert archive.info(name).stored_size < len(data) / 100
        with pytest.raises(LimitError, match="to raise the limit"):
            DecodedView(archive)[name]
        failures = imagearchive.verify(archive, decode=True).failures
    assert [failure.name for failure in failures] == [name]
