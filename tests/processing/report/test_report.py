"""The report of whole archives: numbers, page, and damaged input."""

import base64
import gzip
import html.parser
import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from support.archives import write_tar, zip_bytes
from support.images import decode_by_pillow, encode, photo

import imagearchive
from imagearchive.errors import ArchiveNotFoundError, OptionError, TargetExistsError


class Page(html.parser.HTMLParser):
    """Collects the tags of a page, its text, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.urls, self.open = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "rect", "path"):
            self.open.append(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def images():
    """Names and bytes of a few images in two classes, one of them twice and one broken."""
    found = {f"cat/{n}.jpg": encode(photo(60 + 4 * n, 40, n)) for n in range(4)}
    found |= {f"dog/{n}.png": encode(photo(50, 80, 9 + n), "PNG") for n in range(2)}
    found["dog/again.jpg"] = found["cat/0.jpg"]
    found["dog/broken.jpg"] = b"nothing"
    return found


@pytest.fixture(scope="module")
def train(tmp_path_factory, images):
    return write_tar(tmp_path_factory.mktemp("report") / "train.tar", images)


def test_report_numbers_equal_those_of_decoded_images(train, images):
    (facts,) = imagearchive.report(train).archives
    found = facts.images
    decoded = [decode_by_pillow(data) for name, data in images.items() if "broken" not in name]
    assert facts.classes.counts == {"cat": 4, "dog": 4}
    assert (found.count, found.measured, found.decoded, found.damaged) == (8, 8, 7, 1)
    assert found.damaged_images[0].name == "dog/broken.jpg"
    assert found.formats == {"JPEG": 5, "PNG": 2}
    assert found.modes == {"RGB": 7}
    widths = [pixels.shape[1] for pixels in decoded]
    assert found.width[:4] == (min(widths), np.median(widths), np.mean(widths), max(widths))
    assert found.bytes.maximum == max(map(len, images.values()))
    scaled = [pixels.reshape(-1, 3) / 255 for pixels in decoded]
    mean = np.mean([one.mean(0) for one in scaled], axis=0)
    square = np.mean([(one**2).mean(0) for one in scaled], axis=0)
    np.testing.assert_allclose(found.mean, mean, atol=1e-3)
    np.testing.assert_allclose(found.std, np.sqrt(square - mean**2), atol=1e-3)
    assert [[one.name for one in group] for group in found.identical.listed] == [
        ["cat/0.jpg", "dog/again.jpg"]
    ]
    assert found.extremes["most_elongated"][0].value == pytest.approx(1.8)
    assert all(len(examples) == 6 for examples in found.extremes.values())
    assert found.common_sizes[0] in [(50, 80, 2), (60, 40, 2)]


def test_report_threads_give_the_same_numbers(train):
    assert imagearchive.report(train, threads=1) == imagearchive.report(train, threads=3)


def test_report_sample_is_stated(train, tmp_path, monkeypatch):
    monkeypatch.setattr("imagearchive.processing.report.report.SAMPLE", 3)
    (facts,) = imagearchive.report(train, tmp_path / "page.html").archives
    assert (facts.images.count, facts.images.measured) == (8, 3)
    assert sum(facts.classes.counts.values()) == 8
    assert "Of the 8 images, 3 were read" in (tmp_path / "page.html").read_text()
    (facts,) = imagearchive.report(train, all=True).archives
    assert facts.images.measured == 8


def test_report_page_is_whole_and_loads_nothing(train, tmp_path):
    target = tmp_path / "page.html"
    imagearchive.report(train, target)
    page = Page(target.read_text())
    assert page.open == []
    assert all(url.startswith(("data:image/jpeg;base64,", "#")) for url in page.urls)
    assert page.tags.count("img") >= 7
    assert page.tags.count("svg") == page.tags.count("desc")
    assert "Normalize(mean=(" in page.text
    assert "script" not in page.tags


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>.jpg", "a\"b'c&d.jpg", "x\u202ey.jpg", "n\n\x07.jpg"]
)
def test_report_hostile_name_is_only_text(tmp_path, name, images):
    members = {f"{name}/{name}": images["cat/1.jpg"], "b/b.jpg": b"broken"}
    archive = write_tar(tmp_path / "a.tar", members | {"b/c.png": images["dog/0.png"]})
    target = tmp_path / "page.html"
    imagearchive.report(archive, target)
    page = Page(target.read_text())
    assert page.open == []
    assert "script" not in page.tags
    assert "\u202e" not in page.text
    assert "\x07" not in page.text
    if name.isprintable():
        assert name in page.text


def test_report_name_that_is_not_utf8_is_escaped(tmp_path, images):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("x.jpg", images["cat/1.jpg"])
    archive = write_tar(tmp_path / "a.tar", {"caf\udce9.jpg": images["cat/1.jpg"]})
    imagearchive.report(archive, tmp_path / "page.html")
    assert "udce9" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize("kind", ["tar", "zip", "tar.gz"])
def test_report_damaged_archive_says_what_is_damaged(tmp_path, train, kind):
    damaged = tmp_path / f"cut.{kind}"
    data = train.read_bytes()
    if kind == "zip":
        data = zip_bytes(dict(imagearchive.open(train).items()))
    elif kind == "tar.gz":
        data = gzip.compress(data)
    damaged.write_bytes(data[: len(data) // 2])
    (facts,) = imagearchive.report(damaged, tmp_path / "page.html").archives
    assert not facts.problem
    assert facts.container["damage"]
    assert 0 < facts.images.count < 8
    assert "The archive is damaged" in (tmp_path / "page.html").read_text()


def test_report_unreadable_archive_is_a_problem_beside_others(tmp_path, train):
    (tmp_path / "text.tar").write_bytes(b"this is not an archive" * 100)
    first, second = imagearchive.report(
        [tmp_path / "text.tar", train], tmp_path / "p.html"
    ).archives
    assert first.problem
    assert second.images.count == 8
    assert "It cannot be opened" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("members", "text"),
    [({}, "The archive is empty"), ({"a/1.txt": b"x", "b/2.txt": b"y"}, "contains no images")],
)
def test_report_archive_without_images_says_so(tmp_path, members, text):
    archive = write_tar(tmp_path / "a.tar", members)
    (facts,) = imagearchive.report(archive, tmp_path / "page.html").archives
    assert facts.images is None
    assert text in (tmp_path / "page.html").read_text()


def test_report_images_with_an_alpha_channel_are_counted(tmp_path, images):
    clear = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 4), np.uint8)).save(clear, "PNG")
    members = {"1.png": clear.getvalue(), "2.jpg": images["cat/0.jpg"]}
    imagearchive.report(write_tar(tmp_path / "a.tar", members), tmp_path / "page.html")
    assert "1 image has an alpha channel" in (tmp_path / "page.html").read_text()
    imagearchive.report(write_tar(tmp_path / "b.tar", {"2.jpg": members["2.jpg"]}), tmp_path / "b")
    assert "alpha channel" not in (tmp_path / "b").read_text()


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", encode(photo(1, 1), "PNG")])
def test_report_single_image_has_a_page(tmp_path, data):
    archive = write_tar(tmp_path / "a.tar", {"1.jpg": data})
    (facts,) = imagearchive.report(archive, tmp_path / "page.html").archives
    assert facts.images.count == 1
    assert not any(facts.images.extremes.values())
    assert facts.classes is None
    assert Page((tmp_path / "page.html").read_text()).open == []


def test_report_two_archives_shows_what_they_share(tmp_path, train, images):
    smaller = encode(decode_by_pillow(images["cat/1.jpg"]), "PNG")
    val = write_tar(
        tmp_path / "val.tar",
        {
            "cat/x.jpg": images["cat/0.jpg"],
            "cat/y.png": smaller,
            "cat/z.jpg": encode(photo(70, 70, 77)),
        },
    )
    report = imagearchive.report([train, val], tmp_path / "page.html")
    (common,) = report.common
    assert (common.first, common.second, common.identical, common.similar) == (0, 1, 1, 1)
    pairs = [(first.name, second.name) for first, second in common.pairs]
    assert pairs == [("cat/0.jpg", "cat/x.jpg"), ("cat/1.jpg", "cat/y.png")]
    assert "Images in several archives" in (tmp_path / "page.html").read_text()


def test_report_classes_are_below_the_root(tmp_path, images):
    names = {f"train/{name}": data for name, data in images.items()}
    archive = write_tar(tmp_path / "a.tar", {**names, "val/cat/9.jpg": images["cat/1.jpg"]})
    (facts,) = imagearchive.report(archive).archives
    assert (facts.classes.root, facts.classes.outside) == ("train", 1)
    (facts,) = imagearchive.report(archive, root="val").archives
    assert (facts.classes.counts, facts.classes.outside) == ({"cat": 1}, 8)


@pytest.mark.parametrize("root", ["trian", "train/cat/0.jpg"])
def test_report_root_that_no_archive_has_raises(tmp_path, images, root):
    archive = write_tar(tmp_path / "a.tar", {f"train/{name}": images[name] for name in images})
    other = write_tar(tmp_path / "b.tar", images)
    with pytest.raises(OptionError, match=f"root must be a directory .* got '{root}'"):
        imagearchive.report([archive, other], root=root)
    assert len(imagearchive.report([archive, other], root="train/").archives) == 2


def test_report_root_with_few_of_the_images_is_not_taken(tmp_path, images):
    data = images["cat/1.jpg"]
    members = {f"a/{kind}/{n}/x.jpg": data for kind in "pqr" for n in range(2)}
    members |= {f"b/c/{kind}/{n}.jpg": data for kind in "xy" for n in range(2)}
    (facts,) = imagearchive.report(write_tar(tmp_path / "a.tar", members)).archives
    assert (facts.classes.root, facts.classes.counts) == ("", {"a": 6, "b": 4})


def test_report_npz_describes_arrays(tmp_path):
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    values[2, 1], values[3, 3] = np.nan, np.inf
    labels = np.array([0, 1, 1, 2, 1, 0, 0, 1, 2, 1])
    np.savez(
        tmp_path / "a.npz", x=values, y=labels, names=np.array(["a", "b", "c"]), o=np.array([{}])
    )
    (facts,) = imagearchive.report(tmp_path / "a.npz", tmp_path / "page.html").archives
    arrays = {one.name: one for one in facts.arrays}
    x = arrays["x"]
    finite = values[np.isfinite(values)]
    assert (x.dtype, x.shape, x.nan, x.infinite) == ("float32", [10, 4], 1, 1)
    assert (x.minimum, x.maximum) == (finite.min(), finite.max())
    assert x.mean == pytest.approx(finite.mean())
    assert arrays["y"].labels == {"1": 5, "0": 3, "2": 2}
    assert arrays["names"].labels == {}
    assert arrays["o"].dtype == "object"


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_report_array_of_images_has_their_mean_and_thumbnails(tmp_path, layout):
    images = np.stack([photo(20, 16, n) for n in range(15)])
    stored = {"NHWC": images, "NCHW": images.transpose(0, 3, 1, 2), "NHW": images[..., 0]}[layout]
    np.savez(tmp_path / "a.npz", images=stored, y=np.arange(15))
    (facts,) = imagearchive.report(tmp_path / "a.npz", tmp_path / "page.html").archives
    found = {one.name: one for one in facts.arrays}["images"]
    channels = images[..., :1] if layout == "NHW" else images
    np.testing.assert_allclose(found.channel_mean, (channels / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(found.channel_std, (channels / 255).std((0, 1, 2)))
    page = Page((tmp_path / "page.html").read_text())
    assert page.open == []
    assert page.tags.count("img") == 12
    assert "row 14" in page.text
    first = next(url for url in page.urls if url.startswith("data:"))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2]))), int)
    expected = channels[0].repeat(3, -1) if layout == "NHW" else images[0]
    assert np.abs(shown - expected).mean() < 12


@pytest.mark.parametrize("shape", [(4, 5, 5, 3), (4, 20, 20, 7), (4, 20), (0, 20, 20, 3)])
def test_report_array_of_no_images_has_no_mean_of_channels(tmp_path, shape):
    np.savez(tmp_path / "a.npz", x=np.zeros(shape, np.uint8), f=np.zeros((4, 20, 20, 3)))
    (facts,) = imagearchive.report(tmp_path / "a.npz", tmp_path / "page.html").archives
    assert [one.channel_mean for one in facts.arrays] == [[], []]


def test_report_large_array_is_read_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("imagearchive.processing.report.array_facts._WHOLE", 100)
    monkeypatch.setattr("imagearchive.processing.report.array_facts._CHUNK", 100)
    values = np.random.default_rng(0).normal(size=(50, 6))
    # Datasets call this column "image".
    np.savez(tmp_path / "a.npz", images=values)
    (facts,) = imagearchive.report(tmp_path / "a.npz").archives
    (x,) = facts.arrays
    assert (x.rows, x.minimum, x.maximum) == (50, values.min(), values.max())
    assert x.mean == pytest.approx(values.mean())


def test_report_samples_that_lack_a_file_are_listed(tmp_path, images):
    members = {f"{n}.jpg": images["cat/1.jpg"] for n in range(3)} | {"3.png": images["dog/0.png"]}
    members |= {f"{n}.txt": b"text" for n in range(3)}
    (facts,) = imagearchive.report(write_tar(tmp_path / "a.tar", members)).archives
    assert (facts.samples.count, facts.samples.incomplete) == (4, 1)
    assert facts.samples.missing == [("3", "txt")]
    assert facts.samples.extensions == {"jpg": 3, "txt": 3, "png": 1}


def test_report_labels_beside_images_are_classes(tmp_path, images):
    members = {}
    for number, label in enumerate([b"7", b"3\n", b"7", None]):
        members[f"{number}.jpg"] = images["cat/1.jpg"]
        if label is not None:
            members[f"{number}.cls"] = label
    archive = write_tar(tmp_path / "a.tar", members)
    (facts,) = imagearchive.report(archive, tmp_path / "page.html").archives
    assert facts.classes.label_extension == "cls"
    assert (facts.classes.counts, facts.classes.outside) == ({"7": 2, "3": 1}, 1)
    assert ".cls files beside images" in (tmp_path / "page.html").read_text()


def test_report_page_has_a_bounded_size(tmp_path, monkeypatch, images):
    monkeypatch.setattr("imagearchive.processing.report.report._PICTURE_BUDGET", 5000)
    members = {f"c{n}/{'long' * 50}{n}.jpg": images["cat/2.jpg"] for n in range(60)}
    imagearchive.report(write_tar(tmp_path / "a.tar", members), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert len("".join(re.findall(r"data:image[^\"]*", page))) <= 5000 + 100
    assert "31 other classes" in page
    assert "no picture" in page


def test_report_wrong_arguments_are_refused(tmp_path, train):
    with pytest.raises(ArchiveNotFoundError):
        imagearchive.report(tmp_path / "nothing.tar")
    with pytest.raises(OptionError):
        imagearchive.report([])
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(TargetExistsError):
        imagearchive.report(train, tmp_path / "page.html")
    imagearchive.report(train, tmp_path / "page.html", overwrite=True)
    assert "<!DOCTYPE html>" in (tmp_path / "page.html").read_text()
