"""The command repack."""

import io
import json
import tarfile

import numpy as np
import pytest
from support.archives import encoded
from support.files import fill


def image(value, kind="PNG"):
    return encoded(np.full((20, 30, 3), value, np.uint8), kind)


def test_repack_prints_archives_and_what_was_gained(run, work):
    fill(work / "data", {f"cat/{number}.png": image(number) for number in range(5)})
    status, out, _ = run("repack", "data", "o-{:02}.tar", "--resize", "10", "--shard-samples", "3")
    lines = out.decode().splitlines()
    assert status == 0
    assert lines[:2] == ["o-00.tar", "o-01.tar"]
    assert lines[2].startswith("5 samples, 5 of 5 images encoded again: ")
    assert "images/s" in lines[3]
    assert (
        run("repack", "-q", "data", "o-{:02}.tar", "-f", "--no-index", "--format", "jpeg")[1] == b""
    )
    with tarfile.open("o-00.tar") as tar:
        assert tar.getnames() == [f"cat/{number}.jpg" for number in range(5)]


def test_repack_fields_are_named_with_their_kinds(run, work):
    files = {"img/1.jpg": image(9, "JPEG"), "seg/1.png": encoded(np.ones((20, 30), np.uint8))}
    fill(work / "data", {**files, "box/1.txt": b"4 0.5 0.5 0.2 0.4"})
    fields = ("image=img/{key}.jpg", "mask=mask:seg/{key}.png", "boxes=boxes-yolo:box/{key}.txt")
    options = [part for field in fields for part in ("--field", field)]
    status, out, _ = run("repack", "data", "o-{}.tar", "--resize", "15x10", *options)
    assert status == 0
    with tarfile.open("o-000000.tar") as tar:
        names = {f"1.{end}" for end in ("image.jpg", "mask.png", "boxes.npy", "boxes_classes.npy")}
        assert set(tar.getnames()) == names
        boxes = np.load(io.BytesIO(tar.extractfile("1.boxes.npy").read()))
        np.testing.assert_allclose(boxes, [[6, 3, 9, 7]])
    assert b"'mask': Mask('{key}.mask.png|npy')," in out


def test_repack_missing_says_what_becomes_of_incomplete_samples(run, work):
    mask = encoded(np.ones((20, 30), np.uint8))
    fill(work / "data", {"img/1.png": image(9), "img/2.png": image(9), "seg/1.png": mask})
    fields = ("--field", "image=img/{key}.png", "--field", "mask=mask:seg/{key}.png")
    status, _, err = run("repack", "data", "a-{}.tar", *fields)
    assert status == 1
    assert "--missing skip" in err
    wanted = {"skip": ["1.image.png", "1.mask.png"]}
    wanted["none"] = [*wanted["skip"], "2.image.png"]
    for missing, names in wanted.items():
        assert run("repack", "-q", "data", "a-{}.tar", "-f", *fields, "--missing", missing)[0] == 0
        with tarfile.open("a-000000.tar") as tar:
            assert tar.getnames() == names
    # An NPZ has rows, and no members with fields.
    target = ("data", "a.npz", "--resize", "8", *fields)
    assert "--missing skip" in run("repack", *target, "--missing", "none")[2]
    status, out, _ = run("repack", *target, "--missing", "skip", "--json")
    assert status == 0
    assert json.loads(out)["fields"] is None


def test_repack_wrong_fields_are_refused(run, work):
    fill(work / "data", {"1.jpg": image(9, "JPEG")})
    for wrong in ("image", "image:x.jpg", "picture=picture:{key}.jpg"):
        status, _, err = run("repack", "data", "o-{}.tar", "--field", wrong)
        assert status == 2
        assert "--field" in err


@pytest.mark.parametrize(
    "options",
    [
        ("--field", "a={key}.jpg", "--field", "a=text:{key}.txt"),
        ("--keys", "keys.txt"),
        ("--whole-key",),
        ("--missing", "skip"),
    ],
)
@pytest.mark.parametrize("command", [("repack", "o-{}.tar"), ("report",)])
def test_field_options_that_contradict_each_other_are_refused(run, work, command, options):
    name, *target = command
    status, _, err = run(name, "photos", *target, *options)
    assert status == 2
    assert options[0] in err


def test_repack_broken_image_is_reported(run, work):
    fill(work / "data", {"a/1.jpg": image(9, "JPEG"), "a/2.jpg": b"broken"})
    status, _, err = run("repack", "data", "o-{}.tar", "--resize", "9")
    assert status == 1
    assert "a/2.jpg" in err
    assert "--skip-broken" in err
    status, out, err = run("repack", "data", "o-{}.tar", "--resize", "9", "--skip-broken", "--json")
    assert status == 1
    assert "left out: a/2" in err
    assert json.loads(out)["skipped"][0]["key"] == "a/2"


def test_repack_to_an_npz_needs_a_size(run, work):
    fill(work / "data", {"a/1.jpg": image(9, "JPEG")})
    status, _, err = run("repack", "data", "o.npz")
    assert status == 1
    assert "--resize" in err
    status, _, err = run("repack", "data", "o.npz", "--resize", "9")
    assert (status, err) == (0, "imagearchive: o.npz: about 243 bytes, 243 for each sample\n")
    assert run("repack", "-q", "data", "p.npz", "--resize", "9")[2] == ""
    assert np.load("o.npz")["images"].shape == (1, 9, 9, 3)


def table_of(work, *classes):
    """Five images, and a table that names some of them."""
    fill(work / "data", {f"{number}.png": image(number) for number in range(5)})
    rows = "".join(f"{number}.png,{name}\n" for number, name in enumerate(classes))
    (work / "labels.csv").write_text("file,kind\n" + rows)
    return ("--table", "labels.csv", "--image", "file", "--label", "kind")


def test_repack_table_writes_the_images_that_it_names_in_class_directories(run, work):
    options = table_of(work, "dog", "cat", "dog")
    assert run("repack", "-q", "data", "o-{}.tar", *options) == (0, b"", "")
    with tarfile.open("o-000000.tar") as tar:
        assert tar.getnames() == ["dog/0.png", "cat/1.png", "dog/2.png"]
    assert run("repack", "-q", "data", "o.npz", "--resize", "4", *options) == (0, b"", "")
    with np.load("o.npz") as arrays:
        assert arrays["labels"].tolist() == [1, 0, 1]
        assert arrays["class_names"].tolist() == ["dog", "cat", "dog"]


def test_repack_table_of_a_text_file_has_numbered_columns(run, work):
    table_of(work)
    (work / "list.txt").write_text("3.png 7\n1.png 2\n")
    options = ("--table", "list.txt", "--image", "0", "--label", "1")
    assert run("repack", "-q", "data", "o-{}.tar", *options) == (0, b"", "")
    with tarfile.open("o-000000.tar") as tar:
        assert tar.getnames() == ["3.png", "3.cls", "1.png", "1.cls"]
        assert tar.extractfile("3.cls").read() == b"7"


def test_repack_table_with_missing_images_needs_an_option(run, work):
    options = table_of(work, *"abcdea")
    status, _, err = run("repack", "-q", "data", "o-{}.tar", *options)
    assert status == 1
    assert "1 of 6 names fit no member: '5.png'" in err
    assert err.endswith("; use --missing skip to leave them out\n")
    status, _, err = run("repack", "-q", "data", "o-{}.tar", "--missing", "skip", *options)
    assert status == 0
    assert "these samples are left out" in err
    with tarfile.open("o-000000.tar") as tar:
        assert len(tar.getnames()) == 5


def test_repack_table_options_that_contradict_exit_with_2(run, work):
    options = table_of(work, "cat")
    for wrong, message in (
        (options[:4], "--table, --image, and --label need each other"),
        ((*options, "--field", "x={key}.png"), "--table cannot be combined with --field"),
        ((*options, "--missing", "none"), "--missing none needs --field"),
        (("--missing", "skip"), "--missing needs --field or --table"),
    ):
        status, _, err = run("repack", "data", "o-{}.tar", *wrong)
        assert (status, message in err) == (2, True)
