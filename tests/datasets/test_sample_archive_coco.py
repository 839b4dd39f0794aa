"""`Coco` in a `SampleArchive`: the annotations of a COCO file as fields."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageDraw
from support.archives import write_tar
from support.samples import encoded_image, smooth_image

import imagearchive
from imagearchive import Boxes, Coco, Compose, RandomHorizontalFlip, SampleArchive
from imagearchive.datasets.samples import coco_annotations
from imagearchive.datasets.samples.segmentations import Segmentations
from imagearchive.errors import (
    CorruptIndexError,
    LabelError,
    LimitError,
    OptionError,
    StaleIndexError,
)
from imagearchive.index import file_format
from imagearchive.storage.location import locate

IMAGE = "train/{key}.jpg"


def size_of(number):
    height, width = smooth_image(number).shape[:2]
    return height, width


def images(count=4):
    sizes = [size_of(i) for i in range(count)]
    return [
        {"id": 100 - i, "file_name": f"{i}.jpg", "height": height, "width": width}
        for i, (height, width) in enumerate(sizes)
    ]


def annotation(number, box, category=1, **others):
    return {"image_id": 100 - number, "bbox": box, "category_id": category, **others}


ANNOTATIONS = [
    annotation(2, [1, 2, 10, 5], 90),
    annotation(0, [0, 0, 4, 4], 3),
    annotation(2, [3.5, 2, 10, 0], 3),
    annotation(2, [0, 0, 30, 30], 3, iscrowd=1),
]
CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}, {"id": 7, "name": "bus"}]


def coco(annotations=ANNOTATIONS, **others):
    content = {"images": images(), "annotations": annotations, "categories": CATEGORIES}
    return json.dumps({**content, **others})


def make(folder, text=None, count=4, **options):
    """A dataset whose annotations are in its archive."""
    members = {f"train/{i}.jpg": encoded_image(i) for i in range(count)}
    members["labels/train.json"] = (coco() if text is None else text).encode()
    path = write_tar(folder / "coco.tar", members)
    fields = {"image": IMAGE, "annotations": Coco("labels/train.json", **options.pop("coco", {}))}
    return SampleArchive(path, fields=fields, **options)


def test_coco_boxes_and_classes_are_those_of_the_file(tmp_path):
    dataset = make(tmp_path)
    assert list(dataset[2]) == ["__key__", "image", "boxes", "classes"]
    assert dataset[2]["boxes"].tolist() == [[1, 2, 11, 7], [3.5, 2, 13.5, 2]]
    assert dataset[2]["classes"].tolist() == [2, 0]
    assert dataset[0]["boxes"].tolist() == [[0, 0, 4, 4]]
    assert dataset.classes == ["car", "bus", "brush"]
    assert dataset[0]["boxes"].dtype == np.float32
    assert dataset[0]["classes"].dtype == np.int64


def test_coco_image_without_annotations_gives_empty_arrays(tmp_path):
    text = coco(
        [annotation(0, [0, 0, 4, 4], 3, segmentation=[[0, 0, 4, 0, 4, 4]], keypoints=[1] * 6)]
    )
    sample = make(tmp_path, text, coco={"masks": True, "keypoints": True})[1]
    assert sample["boxes"].shape == (0, 4)
    assert sample["classes"].shape == (0,)
    assert sample["masks"].shape == (0, *size_of(1))
    assert sample["keypoints"].shape == (0, 2, 3)


def test_coco_crowd_keeps_groups_of_objects(tmp_path):
    assert len(make(tmp_path, coco={"crowd": True})[2]["boxes"]) == 3


def test_coco_annotations_before_images_are_the_same(tmp_path):
    content = json.loads(coco())
    swapped = json.dumps(dict(reversed(content.items())))
    assert make(tmp_path, swapped)[2]["boxes"].tolist() == [[1, 2, 11, 7], [3.5, 2, 13.5, 2]]


def test_coco_file_on_disk_and_names_with_directories_match(tmp_path):
    listed = [{**image, "file_name": f"train/{image['file_name']}"} for image in images()]
    (tmp_path / "train.json").write_text(coco(images=listed))
    path = write_tar(tmp_path / "x.tar", {f"train/{i}.jpg": encoded_image(i) for i in range(4)})
    fields = {"image": IMAGE, "annotations": Coco(str(tmp_path / "train.json"))}
    assert len(SampleArchive(path, fields=fields)[2]["boxes"]) == 2
    # Every field names its archive.
    fields["image"] = (path, IMAGE)
    assert len(SampleArchive(fields=fields)[2]["boxes"]) == 2


def test_coco_keypoints_of_objects_without_any_are_zeros(tmp_path):
    points = [1, 2, 2, 3, 4, 1]
    text = coco(
        [
            annotation(0, [0, 0, 4, 4], 3),
            annotation(0, [0, 0, 4, 4], 3, keypoints=points),
            annotation(1, [0, 0, 4, 4], 3, keypoints=[]),
        ]
    )
    dataset = make(tmp_path, text, coco={"keypoints": True})
    assert dataset[0]["keypoints"].tolist() == [[[0] * 3] * 2, [[1, 2, 2], [3, 4, 1]]]
    assert dataset[1]["keypoints"].tolist() == [[[0] * 3] * 2]
    assert dataset[0]["keypoints"].dtype == np.float32


def test_coco_flip_moves_boxes_masks_and_keypoints(tmp_path):
    height, width = size_of(0)
    runs = [0, 3 * height, (width - 3) * height]
    outline = {"counts": runs, "size": [height, width]}
    text = coco(
        [annotation(0, [0, 0, 3, 5], 3, segmentation=outline, keypoints=[0, 1, 2, 2, 1, 2])]
    )
    options = {"masks": True, "keypoints": True, "flip_pairs": [(0, 1)]}
    sample = make(tmp_path, text, coco=options)[0]
    assert sample["masks"][0].sum() == 3 * height
    flipped = Compose([RandomHorizontalFlip(1.0)])(sample)
    assert flipped["boxes"].tolist() == [[width - 3, 0, width, 5]]
    np.testing.assert_array_equal(flipped["masks"], sample["masks"][:, :, ::-1])
    assert flipped["keypoints"].tolist() == [[[width - 3, 1, 2], [width - 1, 1, 2]]]


def test_coco_loader_gives_lists_of_ragged_columns(tmp_path):
    pytest.importorskip("torch")
    outline = [[0, 0, 8, 0, 8, 8, 0, 8]]
    text = coco([{**one, "segmentation": outline} for one in ANNOTATIONS])
    dataset = make(tmp_path, text, coco={"masks": True})
    loader = imagearchive.DataLoader(dataset, batch_size=4, image_size=16)
    (batch,) = loader
    assert [len(boxes) for boxes in batch["boxes"]] == [1, 0, 1, 0]  # one has no height
    assert [tuple(masks.shape) for masks in batch["masks"]] == [
        (1, 16, 16),
        (0, 16, 16),
        (1, 16, 16),
        (0, 16, 16),
    ]
    assert [classes.tolist() for classes in batch["classes"]] == [[0], [], [2], []]


@settings(max_examples=60)
@given(st.data())
def test_polygon_fills_pixels_whose_centers_are_inside(data):
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    corners = data.draw(st.lists(st.tuples(*[st.integers(-4, 60)] * 2), min_size=3, max_size=7))
    # Quarters never meet the centers of pixels exactly at these offsets.
    ring = [(x / 4 + 0.0625, y / 4 + 0.0625) for x, y in corners]
    outlines = Segmentations()
    outlines.add([[value for corner in ring for value in corner]], "x")
    mask = outlines.masks(np.array([0]), height, width)[0]
    for row in range(height):
        for column in range(width):
            inside = False
            for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]]):
                if (y0 > row + 0.5) != (y1 > row + 0.5):
                    crossing = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                    if abs(crossing - column - 0.5) < 1e-9:
                        break
                    inside ^= crossing < column + 0.5
            else:
                assert mask[row, column] == inside


def test_polygon_of_a_circle_is_close_to_pillow(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([60 + 40 * np.cos(angles), 50 + 30 * np.sin(angles)], 1)
    outlines = Segmentations()
    outlines.add([ring.ravel().tolist()], "x")
    mask = outlines.masks(np.array([0]), 100, 120)[0]
    # Drawn in Pillow at eight times the size.
    picture = PillowImage.new("L", (960, 800))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in ring * 8], fill=1)
    expected = np.asarray(picture).reshape(100, 8, 120, 8).mean((1, 3)) >= 0.5
    assert (mask != expected).sum() <= 20


def compressed(runs):
    """Run lengths as COCO compresses them, by the definition of the format."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(bits + 32 * more + 48)
    return text


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_run_lengths_compressed_and_not_give_the_mask(height, width, data):
    seed = data.draw(st.integers(0, 1 << 30))
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < data.draw(st.sampled_from([0, 0.02, 0.5, 1]))) * 1
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    runs = np.diff([0, *changes, len(flat)]).tolist()
    outlines = Segmentations()
    outlines.add({"counts": runs, "size": [height, width]}, "x")
    outlines.add({"counts": compressed(runs), "size": [height, width]}, "x")
    for found in outlines.masks(np.array([0, 1]), height, width):
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (None, "segmentation must be"),
        ([], "segmentation must be"),
        ([[1, 2, 3, 4]], "three points"),
        ([[1, 2, 3, 4, 5, "6"]], "not a number"),
        ([[1e10] * 6], "far out"),
        ({"counts": [5], "size": [3, 3]}, "do not add up"),
        ({"counts": [-1, 10], "size": [3, 3]}, "do not add up"),
        ({"counts": [1.5, 7.5], "size": [3, 3]}, "do not add up"),
        ({"counts": "", "size": [3, 3]}, "damaged"),
        ({"counts": "oooooooooooooooo0", "size": [3, 3]}, "damaged"),
        ({"counts": "\u00e9", "size": [3, 3]}, "damaged"),
        ({"counts": "o", "size": [3, 3]}, "damaged"),
        ({"counts": [9], "size": [3]}, "height and a width"),
        ({"counts": [9], "size": [1 << 40, 1]}, "height and a width"),
        ({"counts": [9], "size": [3, 3]}, "but the run lengths of an annotation have 3 x 3"),
    ],
)
def test_coco_damaged_segmentation_raises_with_file_and_image(tmp_path, outline, message):
    text = coco([annotation(1, [0, 0, 2, 2], 3, segmentation=outline)])
    with pytest.raises(LabelError, match=message) as error:
        make(tmp_path, text, coco={"masks": True})
    assert "labels/train.json" in str(error.value)
    assert "image 99" in str(error.value)
    # What is not read does not matter.
    assert len(make(tmp_path, text)[1]["boxes"]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not valid JSON"),
        ("{}", "has no annotations and images"),
        (coco()[:-40], "broken or incomplete"),
        (coco([annotation(0, [1, 2, -3, 4], 3)]), "image 100: bbox must be"),
        (coco([annotation(0, [1, 2, 3, 1e300], 3)]), "image 100: bbox must be"),
        (coco([annotation(0, None, 3)]), "image 100: bbox is not a list"),
        (coco([annotation(0, [1, 2, 3, 4], 5)]), "refer to category 5"),
        (coco([annotation(9, [1, 2, 3, 4], 3)]), "does not list, such as image 91"),
        (coco(images=[*images(), images()[0]]), "image id 100 occurs twice"),
        (coco(images=[*images(), {**images()[0], "id": 5}]), "two images are of the sample '0'"),
        (coco(images=[{"id": 100}]), "image 100 has no file_name"),
        (coco(categories=[CATEGORIES[0]] * 2), "category id 90 occurs twice"),
    ],
)
def test_coco_damaged_file_raises_label_error(tmp_path, text, message):
    with pytest.raises(LabelError, match=message) as error:
        make(tmp_path, text)
    assert "labels/train.json" in str(error.value)


@pytest.mark.parametrize("points", [[1, 2], [[1, 2, 2]], [1, 2, "a"], [1e300, 1, 1]])
def test_coco_damaged_keypoints_raise_label_error(tmp_path, points):
    text = coco([annotation(0, [0, 0, 2, 2], 3, keypoints=points)])
    with pytest.raises(LabelError, match=r"image 100: .*keypoints"):
        make(tmp_path, text, coco={"keypoints": True})


def test_coco_keypoints_of_one_object_take_no_memory_for_the_others(tmp_path):
    # As an array of all objects, these would take 14 GB.
    others = [annotation(0, [0, 0, 2, 2], 3)] * 12_000
    text = coco([*others, annotation(1, [0, 0, 2, 2], 3, keypoints=[1] * 300_000)])
    dataset = make(tmp_path, text, coco={"keypoints": True})
    assert dataset[1]["keypoints"].shape == (1, 100_000, 3)
    with pytest.raises(LimitError, match="100000 keypoints of 12000 objects"):
        dataset[0]


def test_coco_without_keypoints_says_so(tmp_path):
    with pytest.raises(LabelError, match="no annotation has keypoints"):
        make(tmp_path, coco={"keypoints": True})


def test_coco_without_sizes_of_images_cannot_make_masks(tmp_path):
    text = coco([], images=[{"id": 1, "file_name": "0.jpg"}])
    with pytest.raises(LabelError, match="size of image 1 must be a height and a width"):
        make(tmp_path, text, coco={"masks": True})


def test_coco_images_not_listed_are_missing_parts(tmp_path):
    with pytest.raises(LabelError, match=r"lacks the images of 2 of 6 samples, such as .*'4'"):
        make(tmp_path, count=6)
    skipped = make(tmp_path, count=6, missing="skip")
    assert (len(skipped), skipped.skipped, skipped.key(3)) == (4, 2, "3")
    kept = make(tmp_path, count=6, missing="none")
    assert (kept[5]["boxes"], kept[5]["classes"]) == (None, None)
    assert kept.optional_fields() == {"boxes", "classes"}
    assert len(kept[2]["boxes"]) == 2


def test_coco_of_other_images_names_file_name_and_pattern(tmp_path):
    listed = [{**image, "file_name": f"val/{image['file_name']}"} for image in images()]
    with pytest.raises(LabelError, match=r"'val/0.jpg', and the pattern is 'train/\{key\}.jpg'"):
        make(tmp_path, coco(images=listed), missing="skip")


def test_coco_samples_of_several_archives_with_one_key_raise(tmp_path):
    (tmp_path / "x.json").write_text(coco())
    members = {f"train/{i}.jpg": encoded_image(i) for i in range(4)}
    paths = [write_tar(tmp_path / f"{name}.tar", members) for name in "ab"]
    fields = {"image": IMAGE, "annotations": Coco(str(tmp_path / "x.json"))}
    with pytest.raises(LabelError, match="several samples have the key '0'"):
        SampleArchive(paths, fields=fields)


def test_coco_fields_that_clash_or_lack_an_image_raise(tmp_path):
    with pytest.raises(OptionError, match="no field of the kind Image"):
        SampleArchive("x.tar", fields={"text": "{key}.txt", "a": Coco("x.json")})
    with pytest.raises(OptionError, match="'a' and 'b' are both"):
        SampleArchive("x.tar", fields={"image": IMAGE, "a": Coco("x"), "b": Coco("y")})
    path = make(tmp_path).archives[0].path
    fields = {"image": IMAGE, "boxes": Boxes("train/{key}.jpg"), "a": Coco("labels/train.json")}
    with pytest.raises((OptionError, LabelError), match="boxes"):
        SampleArchive(path, fields=fields)


def test_coco_pickle_elsewhere_is_the_same_and_a_changed_file_is_stale(tmp_path, monkeypatch):
    write_tar(tmp_path / "x.tar", {f"train/{i}.jpg": encoded_image(i) for i in range(4)})
    (tmp_path / "x.json").write_text(coco())
    monkeypatch.chdir(tmp_path)
    dataset = SampleArchive("x.tar", fields={"image": IMAGE, "a": Coco("x.json")})
    dumped = pickle.dumps(dataset)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(dumped)[2]["boxes"].tolist() == dataset[2]["boxes"].tolist()
    (tmp_path / "x.json").write_text(coco(ANNOTATIONS[:1]))
    with pytest.raises(StaleIndexError, match="changed since the dataset was pickled"):
        pickle.loads(dumped)


def test_coco_is_compared_by_value_and_pickled():
    field = Coco("x.json", masks=True, flip_pairs=[(0, 1)])
    assert repr(field) == "Coco('x.json', masks=True, flip_pairs=((0, 1),))"
    assert pickle.loads(pickle.dumps(field)) == field != Coco("x.json")


# --- what is saved of a file ---------------------------------------------------------------------

OUTLINED = [
    annotation(0, [0, 0, 4, 4], 3, segmentation=[[0, 0, 4, 0, 4, 4]], keypoints=[1, 2, 2]),
    annotation(
        2,
        [0, 0, 4, 4],
        7,
        segmentation={"counts": [5, size_of(2)[0] * size_of(2)[1] - 5], "size": [*size_of(2)]},
    ),
]


def values_of(dataset):
    return [
        {k: v.tolist() for k, v in sample.items() if isinstance(v, np.ndarray)}
        for sample in dataset
    ]


def test_coco_file_is_parsed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    calls = []
    original = coco_annotations.parse_coco
    monkeypatch.setattr(
        coco_annotations, "parse_coco", lambda *args: calls.append(args) or original(*args)
    )
    path = write_tar(tmp_path / "x.tar", {f"train/{i}.jpg": encoded_image(i) for i in range(4)})
    labels = tmp_path / "labels.json"
    labels.write_text(coco(OUTLINED))

    def opened(**options):
        fields = {"image": IMAGE, "annotations": Coco(str(labels), **options)}
        return SampleArchive(path, fields=fields)

    first = values_of(opened(masks=True, keypoints=True))
    assert values_of(opened(masks=True, keypoints=True)) == first
    again = opened(masks=True, keypoints=True)
    assert values_of(pickle.loads(pickle.dumps(again))) == first
    assert again.classes == ["car", "bus", "brush"]
    assert len(calls) == 1
    assert [len(opened()[i]["boxes"]) for i in range(4)] == [1, 0, 1, 0]
    assert len(calls) == 2
    labels.write_text(coco([]))
    assert [len(opened()[i]["boxes"]) for i in range(4)] == [0] * 4
    assert len(calls) == 3


def test_coco_columns_that_were_saved_and_damaged_raise(tmp_path):
    """Whatever is written into the saved arrays, a sample is read, or an error of ours raised."""
    options = {"masks": True, "keypoints": True}
    make(tmp_path, coco(OUTLINED), coco=options)
    saved = next(
        path
        for path in tmp_path.glob("coco.*.idx.npy")
        if "ring_offsets" in file_format.load(locate(path)).sections
    )
    found = file_format.load(locate(saved))
    meta = {name: value for name, value in found.meta.items() if name != "sections"}
    whole = {name: array.copy() for name, array in found.sections.items()}
    fields = {"image": IMAGE, "annotations": Coco("labels/train.json", **options)}
    raised = 0
    for name, array in whole.items():
        if array.dtype.kind not in "iu" or name.startswith("file_name"):
            continue
        for value in np.array([-1, 3, (1 << 31) - 1]).astype(array.dtype):
            file_format.save(locate(saved), {**whole, name: np.full_like(array, value)}, meta)
            dataset = SampleArchive(tmp_path / "coco.tar", fields=fields)
            for i in range(4):
                try:
                    dataset[i]
                except (CorruptIndexError, LimitError):
                    raised += 1
    assert raised > 10
    assert file_format.load(locate(saved)).meta["checksum"] == meta["checksum"]
