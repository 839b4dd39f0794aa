"""Layouts with lists of images."""

import json

import numpy as np

from support.layouts.files import cells, jpegs, layout, lines, mat, write_tar


@layout("Food-101")
def food_101(folder):
    stems = ["apple_pie/1005649", "apple_pie/1011328", "waffles/1005649", "waffles/9"]
    members = jpegs([f"food-101/images/{stem}.jpg" for stem in stems])
    lists = {"train": [2, 0], "test": [1, 3]}
    for part, numbers in lists.items():
        by_class = {}
        for number in sorted(numbers):
            by_class.setdefault(stems[number].split("/")[0], []).append(stems[number])
        members[f"food-101/meta/{part}.json"] = json.dumps(by_class).encode()
        members[f"food-101/meta/{part}.txt"] = lines(stems[number] for number in numbers)
    members["food-101/meta/classes.txt"] = b"apple_pie\nwaffles\n"
    write_tar(folder / "food-101.tar.gz", members, "gz")
    return {
        part: {number: stems[number].split("/")[0] for number in sorted(numbers)}
        for part, numbers in lists.items()
    }


@layout("Describable Textures (DTD)")
def dtd(folder):
    stems = ["banded/banded_0002.jpg", "banded/banded_0004.jpg", "zigzagged/zigzagged_0001.jpg"]
    members = {**jpegs([f"dtd/images/{stem}" for stem in stems]), "dtd/imdb/imdb.mat": b"x"}
    members["dtd/labels/train1.txt"] = lines([stems[2], stems[0]])
    members["dtd/labels/val1.txt"] = lines([stems[1]])
    write_tar(folder / "dtd-r1.0.1.tar.gz", members, "gz")
    return {"train": {2: "zigzagged", 0: "banded"}, "val": {1: "banded"}}


@layout("Stanford Dogs")
def dogs(folder):
    stems = [f"{name}/{name[:9]}_{i}.jpg" for i, name in
             enumerate(["n02085620-Chihuahua", "n02085782-Japanese_spaniel"] * 2)]  # fmt: skip
    write_tar(folder / "images.tar", jpegs([f"Images/{stem}" for stem in stems]))
    chosen = [stems[0], stems[3]]
    text = mat(
        file_list=cells(chosen), labels=np.array([[1], [2]]), annotation_list=cells(["", ""])
    )
    write_tar(folder / "lists.tar", {"file_list.mat": b"", "train_list.mat": text})
    return {"train": {0: "n02085620-Chihuahua", 3: "n02085782-Japanese_spaniel"}}


@layout("CUB-200-2011")
def cub(folder):
    stems = ["001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
             "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
             "200.Common_Yellowthroat/Common_Yellowthroat_0003_190521.jpg"]  # fmt: skip
    members = jpegs([f"CUB_200_2011/images/{stem}" for stem in stems])
    texts = {
        "images.txt": [f"{i} {stem}" for i, stem in enumerate(stems, 1)],
        "train_test_split.txt": ["1 0", "2 1", "3 1"],
        "image_class_labels.txt": ["1 1", "2 1", "3 200"],
        "bounding_boxes.txt": ["1 60.0 27.0 325.0 304.0", "2 1.0 2.0 3.0 4.0", "3 1.0 2.0 3.0 4.0"],
    }
    members |= {f"CUB_200_2011/{name}": lines(rows) for name, rows in texts.items()}
    write_tar(folder / "CUB_200_2011.tgz", {"attributes.txt": b"", **members}, "gz")
    classes = [stem.split("/")[0] for stem in stems]
    return {"train": {1: classes[1], 2: classes[2]}, "test": {0: classes[0]}}
