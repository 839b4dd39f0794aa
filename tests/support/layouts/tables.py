"""Layouts with labels in tables."""

import numpy as np

from support.layouts.files import (
    jpegs,
    layout,
    lines,
    mask,
    mat,
    picture,
    struct_array,
    write_tar,
    write_zip,
)


@layout("Kaggle competitions")
def kaggle(folder):
    members = {"labels.csv": lines(["id,breed", "00a3,pug", "000b,boxer"])}
    members |= jpegs(["train/000b.jpg", "train/00a3.jpg", "test/00a9.jpg"])
    members["sample_submission.csv"] = b"id,boxer,pug\n00a9,0.5,0.5\n"
    write_zip(folder / "dog-breed-identification.zip", members)
    return {"train": {1: "pug", 0: "boxer"}}


@layout("ImageNet, validation set")
def imagenet_val(folder):
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 5)]
    write_tar(folder / "ILSVRC2012_img_val.tar", jpegs(names))
    wnids = ["n02119789", "n01440764", "n02085620"]
    rows = [(number, wnid, "words", 0.0) for number, wnid in enumerate(wnids, 1)]
    columns = ["ILSVRC2012_ID", "WNID", "words", "num_children"]
    data = "ILSVRC2012_devkit_t12/data"
    members = {
        "ILSVRC2012_devkit_t12/readme.txt": b"",
        f"{data}/meta.mat": mat(synsets=struct_array(rows, columns, (3, 1))),
        f"{data}/ILSVRC2012_validation_ground_truth.txt": b"2\n3\n1\n2\n",
    }
    write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", members, "gz")
    return {"val": {0: wnids[1], 1: wnids[2], 2: wnids[0], 3: wnids[1]}}


@layout("Places365")
def places(folder):
    stems = ["/a/airfield/00000001.jpg", "/a/apartment_building/outdoor/00000001.jpg"]
    members = jpegs([f"data_256{stem}" for stem in stems])
    write_tar(folder / "train_256_places365standard.tar", members)
    val = [f"Places365_val_{number:08}.jpg" for number in (1, 2)]
    write_tar(folder / "val_256.tar", jpegs([f"val_256/{name}" for name in val], 2))
    texts = {
        "places365_train_standard.txt": [f"{stems[0]} 0", f"{stems[1]} 8"],
        "places365_val.txt": [f"{val[0]} 165", f"{val[1]} 358"],
        "categories_places365.txt": ["/a/airfield 0"],
    }
    lists = {name: lines(rows) for name, rows in texts.items()}
    write_tar(folder / "filelist_places365-standard.tar", lists)
    return {"train": {0: 0, 1: 8}, "val": {2: 165, 3: 358}}


def write_pets(folder):
    stems = ["Abyssinian_1", "Abyssinian_100", "yorkshire_terrier_9"]
    members = jpegs([f"images/{stem}.jpg" for stem in stems])
    write_tar(folder / "images.tar.gz", {**members, "images/Abyssinian_100.mat": b"x"}, "gz")
    annotations = {
        "annotations/README": b"",
        "annotations/trainval.txt": b"yorkshire_terrier_9 37 2 25\nAbyssinian_100 1 1 1\n",
        "annotations/test.txt": b"Abyssinian_1 1 1 1\n",
    }
    for number, stem in enumerate(stems, 1):
        annotations[f"annotations/trimaps/._{stem}.png"] = b"Mac OS X"
        annotations[f"annotations/trimaps/{stem}.png"] = mask(number, 3, palette=False)
    write_tar(folder / "annotations.tar.gz", annotations, "gz")


@layout("Oxford-IIIT Pet")
def pets(folder):
    write_pets(folder)
    return {"train": {2: 36, 1: 0}}


@layout("Oxford Flowers-102")
def flowers(folder):
    members = jpegs([f"jpg/image_{number:05}.jpg" for number in range(1, 6)])
    write_tar(folder / "102flowers.tgz", members, "gz")
    labels = np.array([[77, 1, 102, 5, 6]], np.uint8)
    (folder / "imagelabels.mat").write_bytes(mat(labels=labels))
    sets = {"trnid": np.array([[3, 1]], np.uint16), "valid": np.array([[2]], np.uint16)}
    (folder / "setid.mat").write_bytes(mat(**sets, tstid=np.array([[4, 5]], np.uint16)))
    return {"train": {2: 101, 0: 76}}


@layout("Stanford Cars")
def cars(folder):
    write_tar(folder / "cars_train.tgz", jpegs([f"cars_train/{i:05}.jpg" for i in (1, 2, 3)]), "gz")
    columns = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    rows = [(1, 2, 3, 4, label, f"{i:05}.jpg") for i, label in ((1, 14), (2, 196), (3, 1))]
    annotations = mat(annotations=struct_array(rows, columns, (1, 3)))
    members = {"devkit/README.txt": b"", "devkit/cars_train_annos.mat": annotations}
    write_tar(folder / "car_devkit.tgz", members, "gz")
    return {"train": {0: 13, 1: 195, 2: 0}}


@layout("FGVC-Aircraft")
def aircraft(folder):
    data = "fgvc-aircraft-2013b/data"
    members = jpegs([f"{data}/images/{name}.jpg" for name in ("0034309", "1025794", "2")])
    members[f"{data}/images_variant_train.txt"] = b"1025794 707-320\n0034309 Cessna 172\n"
    members[f"{data}/images_variant_test.txt"] = b"2 707-320\n"
    write_tar(folder / "fgvc-aircraft-2013b.tar.gz", members, "gz")
    return {"train": {1: "707-320", 0: "Cessna 172"}}


@layout("CelebA")
def celeba(folder):
    names = [f"{number:06}.jpg" for number in (1, 2, 3)]
    write_zip(folder / "img_align_celeba.zip", jpegs([f"img_align_celeba/{n}" for n in names]))
    identities = [f"{name} {who}" for name, who in zip(names, (2880, 2937, 2880))]
    (folder / "identity_CelebA.txt").write_bytes(lines(identities))
    parts = [f"{name} {part}" for name, part in zip(names, (0, 1, 2))]
    (folder / "list_eval_partition.txt").write_bytes(lines(parts))
    rows = [f"{name} {first:2}  1 {last:2} " for name, first, last in
            zip(names, (-1, 1, -1), (1, 1, -1))]  # fmt: skip
    header = ["3", "Smiling Male Young ", *rows]
    (folder / "list_attr_celeba.txt").write_bytes(lines(header))
    return {
        "people": {0: 2880, 1: 2937, 2: 2880},
        "val": {1: 1},
        "attributes": {0: [-1, 1], 1: [1, 1], 2: [-1, -1]},
    }


@layout("Open Images")
def open_images(folder):
    names = ["000002b66c9c498e", "000002b97e5471a0"]
    for shard, name in enumerate(names):
        members = {f"train_{shard}/{name}.jpg": picture(shard)}
        write_tar(folder / f"train_{shard}.tar.gz", members, "gz")
    rows = [
        "ImageID,Source,LabelName,Confidence",
        f"{names[0]},verification,/m/012mj,0",
        f"{names[0]},verification,/m/01599,1",
        f"{names[1]},verification,/m/012mj,1",
        "00000fe600d3a3d1,verification,/m/012mj,1",
    ]
    (folder / "oidv6-train-annotations-human-imagelabels.csv").write_bytes(lines(rows))
    return {"shards": {0: "/m/01599", 1: "/m/012mj"}}


def write_voc(folder):
    voc = "VOCdevkit/VOC2012"
    stems = ["2007_000027", "2007_000032", "2007_000039"]
    members = jpegs([f"{voc}/JPEGImages/{stem}.jpg" for stem in stems])
    for number, stem in enumerate(stems):
        members[f"{voc}/Annotations/{stem}.xml"] = b"<annotation/>"
        members[f"{voc}/SegmentationClass/{stem}.png"] = mask(number + 1, 255)
        members[f"{voc}/SegmentationObject/{stem}.png"] = mask(1)
    sets = f"{voc}/ImageSets"
    members[f"{sets}/Main/aeroplane_train.txt"] = b"2007_000027 -1\n2007_000032  1\n"
    members[f"{sets}/Segmentation/train.txt"] = b"2007_000039\n2007_000032\n"
    write_tar(folder / "VOCtrainval_11-May-2012.tar", members)


@layout("Pascal VOC, classification")
def voc_classification(folder):
    write_voc(folder)
    return {"aeroplane": {0: -1, 1: 1}}
