"""Writing data sets again: as shards of smaller images, and as NPZs."""

import io
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from support.archives import encoded, write_tar
from support.files import fill
from support.repacked import picture, size_of

import imagearchive
from imagearchive import (
    ImageArchive,
    LazyNPZDataset,
    SampleArchive,
    ShardWriter,
    repack,
)
from imagearchive.errors import DecodeError, OptionError, TargetExistsError


def test_repack_shrinks_images_and_keeps_classes(folder, tmp_path):
    result = repack(folder, tmp_path / "a-{:03}.tar", resize=15, shard_samples=4)
    assert [os.path.basename(path) for path in result.paths] == [
        f"a-00{number}.tar" for number in range(3)
    ]
    assert (result.samples, result.images, result.encoded, result.skipped) == (10, 10, 10, [])
    assert result.bytes_before == sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    written = imagearchive.open(result.paths)
    assert result.bytes_after == sum(len(data) for data in written.values())
    before, after = ImageArchive(folder), ImageArchive(result.paths)
    assert after.classes == before.classes == ["cat", "dog"]
    assert [after.label(i) for i in range(10)] == [before.label(i) for i in range(10)]
    assert {size_of(after.read(i)) for i in range(10)} == {(20, 15)}
    expected = [np.asarray(before[i][0].resize((20, 15), 2), int) for i in range(10)]
    for index, pixels in enumerate(expected):
        # JPEG keeps a quarter of the colors, and these images are small.
        assert np.abs(np.asarray(after[index][0], int) - pixels).mean() < 10


def test_repack_copies_what_needs_no_change(folder, tmp_path):
    fill(
        folder, {"cat/large.jpg": picture(11, (80, 90)), "cat/01.txt": b"text", "cat/a.json": b"1"}
    )
    result = repack(folder, tmp_path / "a-{}.tar", resize=30, format="jpeg")
    assert result.encoded == 1
    before, after = imagearchive.open(folder), imagearchive.open(result.paths)
    assert list(after) == list(before)
    assert [name for name in before if before[name] != after[name]] == ["cat/large.jpg"]
    assert size_of(after["cat/large.jpg"]) == (30, 33)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_repack_converts_formats(tmp_path, format):
    files = {f"{name}.{name}": picture(1, format=name.upper()) for name in ("png", "webp", "gif")}
    fill(tmp_path / "data", files | {"photo.jpg": picture(2)})
    result = repack(tmp_path / "data", tmp_path / "a-{}.tar", format=format)
    end = {"jpeg": "jpg"}.get(format, format)
    archive = imagearchive.open(result.paths)
    assert list(archive) == [f"{stem}.{end}" for stem in ("gif", "photo", "png", "webp")]
    found = {PillowImage.open(io.BytesIO(archive[name])).format for name in archive}
    assert found == {format.upper()}
    if format == "png":
        for name in ("gif", "png", "webp"):
            old, new = (
                np.asarray(PillowImage.open(io.BytesIO(data)).convert("RGB"))
                for data in (files[f"{name}.{name}"], archive[f"{name}.png"])
            )
            np.testing.assert_array_equal(new, old)


def test_repack_keeps_gray_images_gray_and_the_orientation(tmp_path):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    gray = encoded(np.full((40, 60), 77, np.uint8), "PNG")
    fill(tmp_path / "data", {"turned.jpg": picture(1, exif=exif), "gray.png": gray})
    archive = imagearchive.open(repack(tmp_path / "data", tmp_path / "a-{}.tar", resize=10).paths)
    turned = PillowImage.open(io.BytesIO(archive["turned.jpg"]))
    assert turned.getexif()[0x0112] == 6
    assert turned.size == (13, 10)
    assert PillowImage.open(io.BytesIO(archive["gray.png"])).mode == "L"


def test_repack_keeps_the_color_of_a_single_pixel(tmp_path):
    pixels = np.full((100, 60, 3), 77, np.uint8)
    pixels[37, 21] = 255, 0, 0
    fill(tmp_path / "data", {"a.bmp": encoded(pixels, "BMP")})
    archive = imagearchive.open(
        repack(tmp_path / "data", tmp_path / "a-{}.tar", format="png").paths
    )
    np.testing.assert_array_equal(
        np.asarray(PillowImage.open(io.BytesIO(archive["a.png"]))), pixels
    )


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_repack_keeps_the_orientation_in_each_format(tmp_path, format):
    exif = PillowImage.Exif()
    exif[0x0112] = 8
    fill(tmp_path / "data", {"a.jpg": picture(1, exif=exif)})
    result = repack(tmp_path / "data", tmp_path / "a-{}.tar", resize=10, format=format)
    (data,) = imagearchive.open(result.paths).values()
    assert PillowImage.open(io.BytesIO(data)).getexif()[0x0112] == 8


def test_repack_measures_the_gain_on_a_part_of_the_images(folder, tmp_path):
    loaded = []

    class Observed(ImageArchive):
        def read(self, index):
            loaded.append(index)
            return super().read(index)

    with Observed(folder) as images:
        results = [repack(images, tmp_path / name, resize=(9, 9)) for name in ("a-{}.tar", "b.npz")]
    for result in results:
        assert result.speed_before > 0
        assert result.speed_after > 0
    # Once to be written, and at most once more; the first row of an NPZ is made to learn its size.
    assert len(loaded) <= 2 * 20 + 1
    fill(tmp_path / "other", {"a.txt": b"text"})
    result = repack(tmp_path / "other", tmp_path / "c-{}.tar")
    assert result.speed_before == result.speed_after == 0


def test_repack_shuffled_is_determined_by_the_seed_and_not_by_workers(folder, tmp_path):
    made = {}
    for name, seed, workers in (("a", 1, 1), ("b", 1, 3), ("c", 2, 1)):
        target = tmp_path / name / "x-{}.tar"
        target.parent.mkdir()
        result = repack(
            folder, target, resize=20, shuffle=True, seed=seed, workers=workers, shard_samples=3
        )
        made[name] = [Path(path).read_bytes() for path in result.paths]
        assert sorted(imagearchive.open(result.paths)) == sorted(imagearchive.open(folder))
    assert made["a"] == made["b"] != made["c"]


def test_repack_by_an_executor_gives_the_same_bytes(folder, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    here = repack(folder, tmp_path / "1/x-{}.tar", resize=20)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        there = repack(folder, tmp_path / "2/x-{}.tar", resize=20, executor=executor)
    assert Path(here.paths[0]).read_bytes() == Path(there.paths[0]).read_bytes()


def test_repack_labels_beside_images_if_names_do_not_tell_them(folder, tmp_path):
    table = {"id": [f"cat/{number:02}" for number in (1, 3)], "score": [0.5, 2.5]}
    dataset = ImageArchive(folder, table=table, image="id", label="score")
    result = repack(dataset, tmp_path / "a-{}.tar")
    archive = imagearchive.open(result.paths)
    assert list(archive) == ["cat/01.jpg", "cat/01.npy", "cat/03.jpg", "cat/03.npy"]
    assert float(np.load(io.BytesIO(archive["cat/03.npy"]))) == 2.5
    number = ImageArchive(folder, class_to_idx={"cat": 7, "dog": 3})
    again = imagearchive.open(repack(number, tmp_path / "b-{}.tar").paths)
    assert again["dog/00.cls"] == b"3"


@pytest.mark.parametrize("shuffle", [False, True])
def test_repack_classes_of_a_table_become_directories(folder, tmp_path, shuffle):
    names = [f"cat/{number:02}" for number in (1, 3, 5, 7)]
    table = {"id": names, "kind": ["old tom", "kitten", "old tom", "kitten"]}
    dataset = ImageArchive(folder, table=table, image="id", label="kind")
    assert dataset.classes == ["kitten", "old tom"]
    result = repack(dataset, tmp_path / "a-{}.tar", shuffle=shuffle)
    assert result.fields is None
    again = ImageArchive(result.paths)
    assert again.classes == dataset.classes
    found = {again.name(index): again.label(index) for index in range(4)}
    assert found == {
        "old tom/cat/01.jpg": 1,
        "kitten/cat/03.jpg": 0,
        "old tom/cat/05.jpg": 1,
        "kitten/cat/07.jpg": 0,
    }


@pytest.mark.parametrize("kinds", [["a/b", "c"], ["..", "c"], [" ", "c"]])
def test_repack_classes_that_cannot_be_directories_stay_numbers(folder, tmp_path, kinds):
    table = {"id": ["cat/01", "cat/03"], "kind": kinds}
    dataset = ImageArchive(folder, table=table, image="id", label="kind")
    result = repack(dataset, tmp_path / "a-{}.tar")
    again = ImageArchive(result.paths, label_extension="cls")
    assert [again.label(0), again.label(1)] == [dataset.label(0), dataset.label(1)]
    assert (
        ImageArchive(repack(again, tmp_path / "b-{}.tar").paths, label_extension="cls")[1][1] == 1
    )


def test_repack_keeps_the_fields_of_samples_together(pairs, tmp_path):
    result = repack(pairs, tmp_path / "a-{}.tar", resize=(20, 15), shard_samples=2)
    assert len(result.paths) == 3
    again = SampleArchive(result.paths, fields=result.fields)
    assert len(again) == 5
    assert again.key(1) == "1_v1"
    sample = again[1]
    assert sample["image"].shape == (15, 20, 3)
    expected = np.zeros((15, 20), np.uint8)
    expected[5:10, 4:12] = 3
    np.testing.assert_array_equal(sample["mask"], expected)
    np.testing.assert_array_equal(sample["boxes"], [[4, 5, 12, 10]])
    np.testing.assert_array_equal(sample["classes"], [1])
    np.testing.assert_allclose(sample["points"], [[3.75, 4.75, 2]])
    assert again.fields["boxes"].min_size == 2
    assert again.fields["classes"].ragged


def test_repack_of_fields_without_a_change_copies_images(pairs, tmp_path):
    result = repack(pairs, tmp_path / "a-{}.tar")
    again = SampleArchive(result.paths, fields=result.fields)
    assert result.encoded == 0
    for index in range(5):
        first, second = pairs[index], again[index]
        for name in pairs.fields:
            np.testing.assert_array_equal(first[name], second[name])
    with pairs.archives[0] as archive:
        stored = bytes(archive["img/3.v1.jpg"])
    assert imagearchive.open(result.paths)["3_v1.image.jpg"] == stored


def test_repack_refuses_several_images_of_a_sample_that_may_be_masks(tmp_path):
    with ShardWriter(tmp_path / "x-{}.tar") as writer:
        writer.write({"__key__": "a", "jpg": picture(1), "seg.png": picture(2, format="PNG")})
    with pytest.raises(OptionError, match=r"several images \(jpg, seg\.png\)"):
        repack(writer.paths, tmp_path / "a-{}.tar", resize=10)
    result = repack(writer.paths, tmp_path / "a-{}.tar")
    assert list(imagearchive.open(result.paths)) == ["a.jpg", "a.seg.png"]


def test_repack_warns_of_places_that_it_does_not_scale(tmp_path, caplog):
    fill(tmp_path / "data", {"a.jpg": picture(1), "a.json": b"[[1, 2, 3, 4]]"})
    repack(tmp_path / "data", tmp_path / "a-{}.tar", resize=10)
    assert ".json are copied as they are" in caplog.text


def test_repack_broken_image_is_named_or_skipped(folder, tmp_path):
    (folder / "cat" / "03.jpg").write_bytes(b"not an image")
    with pytest.raises(DecodeError, match=r"cat/03"):
        repack(folder, tmp_path / "a-{}.tar", resize=10)
    result = repack(folder, tmp_path / "a-{}.tar", resize=10, on_error="skip")
    assert [key for key, _ in result.skipped] == ["cat/03"]
    assert result.samples == 9
    assert "cat/03.jpg" not in imagearchive.open(result.paths)


def test_repack_to_an_npz_decodes_once(folder, tmp_path, caplog):
    caplog.set_level("INFO", "imagearchive")
    result = repack(folder, tmp_path / "a.npz", resize=16)
    assert "about 7,680 bytes, 768 for each sample" in caplog.text
    dataset, before = LazyNPZDataset(tmp_path / "a.npz"), ImageArchive(folder)
    assert len(dataset) == result.samples == 10
    arrays = np.load(tmp_path / "a.npz")
    assert arrays["images"].shape == (10, 16, 16, 3)
    assert arrays["labels"].tolist() == [before.label(i) for i in range(10)]
    assert arrays["class_names"].tolist() == ["cat"] * 5 + ["dog"] * 5
    for index in range(10):
        image = before[index][0].resize((21, 16), PillowImage.Resampling.BILINEAR)
        expected = np.asarray(image.crop((2, 0, 18, 16)), int)
        assert np.abs(arrays["images"][index] - expected).max() <= 2
    with pytest.raises(TargetExistsError):
        repack(folder, tmp_path / "a.npz", resize=16)
    for wrong in ({}, {"resize": 16, "format": "png"}):
        with pytest.raises(OptionError, match="an NPZ holds"):
            repack(folder, tmp_path / "b.npz", **wrong)


def test_repack_fields_to_an_npz(pairs, tmp_path):
    repack(pairs, tmp_path / "a.npz", resize=(20, 15))
    row = LazyNPZDataset(tmp_path / "a.npz", keys=["image", "mask", "boxes", "keys"])[2]
    assert row["image"].shape == (15, 20, 3)
    assert row["mask"].shape == (15, 20)
    assert row["keys"] == "2.v1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": 0}, {"resize": (1, 2, 3)}, {"quality": 0}, {"format": "gif"}, {"workers": 0},
        {"on_error": "ignore"}, {"shard_size": "many"},
    ],
)  # fmt: skip
def test_repack_wrong_arguments_are_refused_before_anything_is_written(folder, tmp_path, wrong):
    with pytest.raises(OptionError):
        repack(folder, tmp_path / "a-{}.tar", **wrong)
    with pytest.raises(OptionError, match="without"):
        repack(ImageArchive(folder, transform=np.asarray), tmp_path / "a-{}.tar")
    assert os.listdir(tmp_path) == ["data"] or "data.idx.npy" in os.listdir(tmp_path)


def test_repack_writes_labels_that_sorted_directories_would_not_give(folder, tmp_path):
    swapped = ImageArchive(folder, class_to_idx={"dog": 0, "cat": 1})
    archive = imagearchive.open(repack(swapped, tmp_path / "a-{}.tar").paths)
    assert (archive["cat/01.cls"], archive["dog/00.cls"]) == (b"1", b"0")
    dogs = ImageArchive(folder, split_mask=np.arange(10) >= 5)
    archive = imagearchive.open(repack(dogs, tmp_path / "b-{}.tar").paths)
    assert archive["dog/00.cls"] == b"1"


def test_repack_encoded_again_changes_only_the_last_extension(tmp_path):
    write_tar(tmp_path / "s.tar", {"1.image.png": picture(1, format="PNG"), "1.cls": b"3"})
    result = repack(tmp_path / "s.tar", tmp_path / "a-{}.tar", format="jpeg")
    assert sorted(imagearchive.open(result.paths)) == ["1.cls", "1.image.jpg"]


def test_repack_fields_read_copied_jpeg_2000(tmp_path):
    write_tar(tmp_path / "s.tar", {"1.jp2": picture(1, format="JPEG2000")})
    samples = SampleArchive(tmp_path / "s.tar", fields={"image": "{key}.jp2"})
    result = repack(samples, tmp_path / "a-{}.tar")
    again = SampleArchive(result.paths, fields=result.fields)
    np.testing.assert_array_equal(again[0]["image"], samples[0]["image"])


def test_repack_to_an_npz_skips_a_broken_first_image(folder, tmp_path):
    (folder / "cat" / "01.jpg").write_bytes(b"not an image")
    result = repack(folder, tmp_path / "a.npz", resize=8, on_error="skip")
    assert [key for key, _ in result.skipped] == ["cat/01"]
    assert len(LazyNPZDataset(tmp_path / "a.npz")) == 9


def test_repack_to_an_npz_without_readable_samples_writes_nothing(tmp_path):
    fill(tmp_path / "data", {"cat/1.jpg": b"broken", "cat/2.jpg": b"broken"})
    with pytest.raises(OptionError, match="no sample that can be read"):
        repack(tmp_path / "data", tmp_path / "a.npz", resize=8, on_error="skip")
    assert not (tmp_path / "a.npz").exists()


def test_repack_to_an_npz_names_the_sample_that_lacks_a_field(tmp_path):
    members = {"a.jpg": picture(1), "a.cls": b"1", "b.jpg": picture(2)}
    write_tar(tmp_path / "x.tar", members)
    fields = {"image": "{key}.jpg", "label": "{key}.cls"}
    samples = SampleArchive(tmp_path / "x.tar", fields, missing="none")
    for on_error in ("raise", "skip"):
        with pytest.raises(OptionError, match="the sample 'b' lacks 'label'"):
            repack(samples, tmp_path / "a.npz", resize=8, on_error=on_error)
    assert not (tmp_path / "a.npz").exists()


def test_repack_equal_keys_are_refused_before_anything_is_written(tmp_path):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {"x/0.jpg": picture(1), f"x/{name}.jpg": picture(2)})
    both = [tmp_path / "a.tar", tmp_path / "b.tar"]
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OptionError, match=r"a\.tar: x/0\.jpg and .*b\.tar: x/0\.jpg .* key 'x/0'"):
        # Even where they would be in different shards.
        repack(both, tmp_path / "o-{}.tar", shard_samples=1)
    assert [name for name in sorted(os.listdir(tmp_path)) if "idx" not in name] == before
    fill(tmp_path / "data", {"x.jpg": picture(1), "x.png": picture(2, format="PNG")})
    with pytest.raises(OptionError, match=r"image 0, x\.jpg, and image 1, x\.png, would both"):
        repack(ImageArchive(tmp_path / "data"), tmp_path / "o-{}.tar")


def test_repack_written_labels_are_read_by_fields_and_by_image_archive(folder, tmp_path):
    numbers = ImageArchive(folder, class_to_idx={"cat": 7, "dog": 3})
    result = repack(numbers, tmp_path / "a-{}.tar")
    samples = SampleArchive(result.paths, result.fields)
    assert [one["label"] for one in samples] == [numbers.label(i) for i in range(10)]
    np.testing.assert_array_equal(samples[4]["image"], np.asarray(numbers[4][0]))
    images = ImageArchive(result.paths, label_extension="cls")
    assert [images.label(i) for i in range(10)] == [numbers.label(i) for i in range(10)]
    scores = {"id": [f"cat/{number:02}" for number in (1, 3)], "score": [0.5, 2.5]}
    result = repack(ImageArchive(folder, table=scores, image="id"), tmp_path / "b-{}.tar")
    assert result.fields is None
    table = ImageArchive(folder, table=scores, image="id", label="score")
    result = repack(table, tmp_path / "c-{}.tar")
    read = SampleArchive(result.paths, result.fields)
    assert [float(one["label"]) for one in read] == [0.5, 2.5]


def test_repack_of_arrays_says_what_reads_them(folder, tmp_path):
    repack(folder, tmp_path / "a.npz", resize=8)
    for target in ("b-{}.tar", "b.npz"):
        with pytest.raises(OptionError, match=r"a\.npz holds arrays.*LazyNPZDataset"):
            repack(tmp_path / "a.npz", tmp_path / target, resize=4)


def test_repack_few_large_images_are_spread_over_all_workers(folder, tmp_path):
    """Sixteen images in one task would leave the other workers idle."""

    class Counting(ThreadPoolExecutor):
        tasks = 0

        def submit(self, *arguments, **options):
            self.tasks += 1
            return super().submit(*arguments, **options)

    with Counting(2) as executor:
        repack(folder, tmp_path / "a-{}.tar", resize=9, executor=executor, workers=2)
    assert executor.tasks == 10


def test_repack_to_a_missing_directory_names_the_directory(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        repack(folder, tmp_path / "none" / "a-{}.tar", resize=9)
    assert caught.value.filename == str(tmp_path / "none")


def test_repack_error_names_the_sample_and_the_way_out(tmp_path):
    write_tar(tmp_path / "s.tar", {"img/1.jpg": picture(1), "img/2.jpg": picture(2)[:50]})
    for source in (tmp_path / "s.tar", SampleArchive(tmp_path / "s.tar", {"x": "img/{key}.jpg"})):
        with pytest.raises(DecodeError, match=r"^(img/2\.jpg|2): .*on_error='skip'"):
            repack(source, tmp_path / "a-{}.tar", resize=9)
        # No shard is complete, so there is nothing to continue from.
        assert not [name for name in os.listdir(tmp_path) if name.startswith((".", "a-"))]


def test_repack_images_with_dots_in_their_names_are_samples_of_their_own(tmp_path):
    names = ["x/wasp_g._01.png", "x/wasp_g._02.png"]
    members = {name: picture(n, format="PNG") for n, name in enumerate(names)}
    write_tar(tmp_path / "s.tar", members)
    with pytest.raises(OptionError, match="first_dot=False"):
        repack(tmp_path / "s.tar", tmp_path / "a-{}.tar", resize=9)
    fields = {"image": "{key}.png"}
    with SampleArchive(tmp_path / "s.tar", fields, first_dot=False) as images:
        result = repack(images, tmp_path / "a-{}.tar", resize=9)
    assert sorted(imagearchive.open(result.paths)) == [
        "x/wasp_g__01.image.png",
        "x/wasp_g__02.image.png",
    ]
    assert ImageArchive(result.paths).classes == ["x"]
