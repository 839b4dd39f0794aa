"""The command report."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from support.archives import encoded, zip_bytes
from support.files import fill


def test_report_prints_numbers_of_each_archive(run, work):
    for kind in ("cat", "dog"):
        Image.new("RGB", (20, 30), (9, 8, 7)).save(f"photos/{kind}/a.png")
    run("pack", "photos", "train.tar")
    run("pack", "photos/cat", "val.tar")
    status, out, _ = run("report", "train.tar", "val.tar")
    lines = out.decode().splitlines()
    assert status == 0
    assert lines[0] == "train.tar: 5 members, 2 images, 2 classes"
    assert lines[2] == "train.tar and val.tar: 1 identical image"
    assert lines[3] == "report.html"
    assert (work / "report.html").read_text().startswith("<!DOCTYPE html>")
    status, _, err = run("report", "train.tar")
    assert (status, "--overwrite" in err) == (1, True)
    assert run("report", "-q", "-f", "train.tar")[:2] == (0, b"")


def test_report_prints_how_many_images_of_two_archives_look_the_same(run, work):
    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    for name, format in (("a", "png"), ("b", "bmp")):
        (work / name).mkdir()
        Image.fromarray(pixels).save(work / name / f"x.{format}")
    _, out, _ = run("report", "a", "b")
    assert out.decode().splitlines()[2] == "a and b: 1 image that looks the same"


def test_report_json_has_the_numbers(run, work):
    Image.new("RGB", (20, 30), (51, 102, 255)).save("photos/cat/a.png")
    status, out, _ = run("report", "photos", "--json")
    (facts,) = json.loads(out)["archives"]
    assert status == 0
    assert facts["images"]["width"][0] == 20
    assert [round(one, 6) for one in facts["images"]["mean"]] == [0.2, 0.4, 1.0]
    assert not (work / "report.html").exists()


def test_report_archive_that_cannot_be_opened_is_an_error(run, work):
    (work / "a.tar").write_bytes(b"this is not an archive" * 100)
    status, out, err = run("report", "a.tar", "photos", "-o", "x.html")
    assert status == 1
    assert "a.tar" in err
    assert out.decode().splitlines()[-1] == "x.html"


def test_report_damaged_archive_is_reported_as_damaged(run, work):
    run("pack", "photos", "train.tar")
    data = (work / "train.tar").read_bytes()
    (work / "cut.tar").write_bytes(data[:4000])
    for _ in range(2):
        status, out, _ = run("report", "-f", "cut.tar")
        assert status == 0
        assert out.decode().splitlines()[0].endswith(", damaged")


def test_report_archive_that_cannot_be_opened_is_named_once(run, work):
    (work / "text.tar").write_bytes(b"this is not an archive" * 100)
    _, _, err = run("report", "text.tar")
    assert err.count("text.tar") == 1


def test_report_fields_are_described(run, work):
    image, mask = (encoded(np.full((12, 16, *end), 7, np.uint8)) for end in ((3,), ()))
    fill(work / "data", {"img/1.png": image, "img/2.png": image, "seg/1.png": mask})
    fill(work / "data", {"box/1.txt": b"4 0.5 0.5 0.25 0.5", "box/2.txt": b""})
    fields = ("image=img/{key}.png", "mask=mask:seg/{key}.png", "boxes=boxes-yolo:box/{key}.txt")
    options = [part for field in fields for part in ("--field", field)]
    status, out, _ = run("report", "data", *options)
    lines = out.decode().splitlines()
    assert status == 0
    assert lines[0] == "data: 5 members, 2 images, 2 samples, 1 incomplete"
    (facts,) = json.loads(run("report", "data", "--json", *options)[1])["archives"]
    found = {one["name"]: one for one in facts["samples"]["fields"]}
    assert found["boxes"]["width"][:4] == [4, 4, 4, 4]
    assert found["mask"]["labels"] == {"7": 1}
    assert facts["samples"]["missing"] == [["2", "mask"]]
    assert run("report", "data", "--field", "image")[0] == 2


@pytest.mark.parametrize(("nested", "status"), [("yes", 0), ("auto", 1)])
def test_report_fields_in_a_nested_archive_need_nested(run, work, nested, status):
    image = encoded(np.zeros((8, 8, 3), np.uint8))
    fill(work / "data", {"seg/1.png": image, "img.zip": zip_bytes({"1.png": image})})
    run("pack", "data", "outer.tar")
    fields = ("--field", "image=img/{key}.png", "--field", "mask=mask:seg/{key}.png")
    found, out, _ = run("report", "outer.tar", "--nested", nested, *fields)
    assert found == status
    assert (b"1 sample" in out) == (status == 0)


def test_report_progress_has_the_number_of_images(run, work, monkeypatch):
    for number in range(3):
        Image.new("RGB", (20, 30), (number, 8, 7)).save(f"photos/cat/{number}.png")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "/3.00 [" in run("report", "photos")[2]
    assert "/5.00 [" in run("repack", "photos", "a-{}.tar")[2]
