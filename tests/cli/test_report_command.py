"""The command report."""

import json

from PIL import Image


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
