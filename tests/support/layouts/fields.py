"""Layouts with masks, boxes, and captions.

Here the dict is from the number of an image to fields of its sample.
"""

import json

import numpy as np

from support.layouts.class_directories import cityscapes_cities, wider
from support.layouts.files import jpegs, layout, mask, picture, write_tar, write_zip
from support.layouts.tables import write_pets, write_voc


@layout("COCO, panoptic segmentation")
def coco_panoptic(folder):
    stems = ["000000000009", "000000000025"]
    write_zip(folder / "train2017.zip", jpegs([f"train2017/{stem}.jpg" for stem in stems]))
    inner = {
        f"panoptic_train2017/{stem}.png": picture(9 + i, "PNG") for i, stem in enumerate(stems)
    }
    write_zip(folder / "inner.zip", inner)
    packed = (folder / "inner.zip").read_bytes()
    (folder / "inner.zip").unlink()
    members = {
        f"annotations/panoptic_{part}2017{extension}": data
        for part in ("train", "val")
        for extension, data in ((".json", b"{}"), (".zip", packed))
    }
    write_zip(folder / "panoptic_annotations_trainval2017.zip", members)
    return {"train": {0: {"segments": 9}, 1: {"segments": 10}}}


@layout("WIDER FACE, boxes")
def wider_boxes(folder):
    wider(folder)
    text = (
        "0--Parade/0_Parade_marchingband_1_849.jpg\n2\n449 330 122 149 0 0 0 0 0 0\n"
        "361 98 263 339 0 0 0 0 0 0\n9--Press_Conference/9_Press_1_2.jpg\n0\n"
        "0 0 0 0 0 0 0 0 0 0\n"
    )
    members = {"wider_face_split/wider_face_train_bbx_gt.txt": text.encode()}
    write_zip(folder / "wider_face_split.zip", members)
    first = [[449.0, 330.0, 571.0, 479.0], [361.0, 98.0, 624.0, 437.0]]
    return {"train": {0: {"boxes": first}, 1: {"boxes": [[0.0] * 4]}}}


@layout("COCO, one sample for each box")
def coco_boxes(folder):
    names = ["000000000009.jpg", "000000000025.jpg", "000000000030.jpg"]
    write_zip(folder / "train2017.zip", jpegs([f"train2017/{name}" for name in names]))
    images = [{"id": int(name[:12]), "file_name": name} for name in names]
    marks = [
        {"id": 1, "image_id": 25, "category_id": 25, "bbox": [1.5, 2.0, 3.25, 4.0], "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 51, "bbox": [5.0, 2.0, 3.0, 1.0], "iscrowd": 0},
    ]
    categories = [{"id": 25, "name": "giraffe"}, {"id": 51, "name": "bowl"}]
    text = {"images": images, "annotations": marks, "categories": categories}
    members = {"annotations/instances_train2017.json": json.dumps(text).encode()}
    write_zip(folder / "annotations_trainval2017.zip", members)
    return {"boxes": {1: [1.5, 2.0, 3.25, 4.0], 0: [5.0, 2.0, 3.0, 1.0]}}


@layout("Pascal VOC, segmentation")
def voc_segmentation(folder):
    write_voc(folder)
    return {"train": {2: {"mask": [3, 255]}, 1: {"mask": [2, 255]}}}


@layout("Oxford-IIIT Pet, trimaps")
def pet_trimaps(folder):
    write_pets(folder)
    return {"pets": {number: {"mask": [number + 1, 3]} for number in range(3)}}


@layout("Cityscapes, segmentation")
def cityscapes(folder):
    cityscapes_cities(folder)
    masks = {}
    for number, city in enumerate(("aachen", "zurich")):
        base = f"gtFine/train/{city}/{city}_000000_000019_gtFine"
        masks[f"{base}_labelIds.png"] = mask(7, 23 + number, palette=False)
        masks[f"{base}_color.png"] = masks[f"{base}_instanceIds.png"] = mask(9)
        masks[f"{base}_polygons.json"] = b"{}"
    write_zip(folder / "gtFine_trainvaltest.zip", masks)
    return {"train": {0: {"mask": [7, 23]}, 1: {"mask": [7, 24]}}}


@layout("ADE20K scene parsing (SceneParse150)")
def ade(folder):
    stems = [f"ADE_train_{number:08}" for number in (1, 2)]
    write_tar(folder / "images.tar", jpegs([f"images/training/{stem}.jpg" for stem in stems]))
    masks = {f"annotations_instance/training/{stem}.png": mask(i, 5, palette=False)
             for i, stem in enumerate(stems)}  # fmt: skip
    write_tar(folder / "annotations_instance.tar", masks)
    return {"train": {0: {"mask": [0, 5]}, 1: {"mask": [1, 5]}}}


@layout("KITTI, object detection")
def kitti(folder):
    images = {f"training/image_2/{i:06}.png": picture(i, "PNG") for i in range(2)}
    write_zip(folder / "data_object_image_2.zip", {**images, "testing/image_2/000000.png": b""})
    text = (
        "Pedestrian 0.00 0 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.0{}\n"
    )
    labels = {f"training/label_2/{i:06}.txt": text.format(i).encode() for i in range(2)}
    write_zip(folder / "data_object_label_2.zip", labels)
    box = [[np.float32(corner) for corner in (712.40, 143.00, 810.73, 307.92)]]
    return {"train": {i: {"objects": text.format(i), "boxes": box} for i in range(2)}}


@layout("Segment Anything (SA-1B)")
def sa_1b(folder):
    members = {}
    for number in range(2):
        members[f"./sa_{number + 1}.jpg"] = picture(number)
        members[f"./sa_{number + 1}.json"] = json.dumps({"image": {"id": number}}).encode()
    write_tar(folder / "sa_000000.tar", members, "gz")
    return {"shard": {i: {"annotations": {"image": {"id": i}}} for i in range(2)}}


@layout("LAION, as img2dataset writes it")
def laion(folder):
    for shard in range(2):
        members = {}
        for number in range(2):
            key = f"{shard:05}{number:04}"
            members[f"{key}.jpg"] = picture(2 * shard + number)
            members[f"{key}.json"] = json.dumps({"key": key}).encode()
            members[f"{key}.txt"] = f"caption {2 * shard + number}".encode()
        write_tar(folder / f"{shard:05}.tar", members)
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        table = pa.table({"key": ["000000001", "000000000"], "similarity": [0.25, 0.5]})
        parquet.write_table(table, folder / "00000.parquet")
    pairs = {number: {"caption": f"caption {number}"} for number in range(4)}
    return {"pairs": pairs, "with_similarity": {1: 0.25, 0: 0.5}}
