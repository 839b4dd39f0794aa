"""Small archives in the layouts of published datasets: names, nesting, compression, label files.

`LAYOUTS` has a function for each. It writes the files to a folder and returns what datasets must
contain: for each variable of the recipe a dict from the number of an image to its label, which is
the name of a class or a number. Every pixel of image number n has the value `8 * n`.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

LAYOUTS = {}


def layout(title):
    """Add a function to `LAYOUTS`."""

    def add(function):
        LAYOUTS[title] = function
        return function

    return add


def picture(number, kind="JPEG", size=(12, 9)):
    """The bytes of image number `number`, at most 31."""
    file = io.BytesIO()
    Image.new("RGB", size, (8 * number,) * 3).save(file, kind)
    return file.getvalue()


def jpegs(names, first=0):
    """JPEG images of these names, numbered from `first`."""
    return {name: picture(number) for number, name in enumerate(names, first)}


def mask(*values, palette=True, size=(12, 9)):
    """A PNG of class numbers, the first value on the left, the second on the right."""
    pixels = np.zeros(size[::-1], np.uint8)
    for place, part in enumerate(np.array_split(np.arange(size[0]), len(values))):
        pixels[:, part] = values[place]
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(list(range(256)) * 3)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_tar(path, members, compression=""):
    """Write a TAR, optionally compressed, with an entry for each directory as `tar` writes it."""
    with tarfile.open(path, f"w:{compression}") as archive:
        directories = {""}
        for name, data in members.items():
            for end in [i for i, character in enumerate(name) if character == "/"]:
                if name[:end] not in directories:
                    directories.add(name[:end])
                    entry = tarfile.TarInfo(name[:end])
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def tar_bytes(members):
    """The bytes of a TAR that is a member of another archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def lines(rows):
    return "".join(f"{row}\n" for row in rows).encode()


def mat(**variables):
    """The bytes of a MATLAB file."""
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


def cells(values):
    """A column of a MATLAB cell array."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def struct_array(rows, names, shape):
    """A MATLAB array of structs."""
    array = np.empty(len(rows), [(name, object) for name in names])
    array[:] = [tuple(row) for row in rows]
    return array.reshape(shape)


# --- one directory for each class -----------------------------------------------------------


def classes_of(names, first=0):
    """The directory of each image."""
    return {number: name.split("/")[-2] for number, name in enumerate(names, first)}


@layout("ImageNet, training set")
def imagenet_train(folder):
    names = [f"{wnid}/{wnid}_{i}.JPEG" for wnid in ("n01440764", "n02119789") for i in (10026, 9)]
    inner = {}
    for number, name in enumerate(names):
        wnid, _, file = name.partition("/")
        inner.setdefault(f"{wnid}.tar", {})[file] = picture(number)
    write_tar(folder / "ILSVRC2012_img_train.tar", {n: tar_bytes(m) for n, m in inner.items()})
    return {"train": classes_of(names)}


@layout("Caltech-101")
def caltech_101(folder):
    names = [f"101_ObjectCategories/{name}/image_0001.jpg" for name in ("BACKGROUND_Google", "ant")]
    members = {
        "caltech-101/101_ObjectCategories.tar.gz": gzip.compress(tar_bytes(jpegs(names))),
        "caltech-101/Annotations.tar": tar_bytes({"Annotations/ant/annotation_0001.mat": b"x"}),
        "caltech-101/show_annotation.m": b"function",
        "__MACOSX/caltech-101/._show_annotation.m": b"Mac OS X",
    }
    write_zip(folder / "caltech-101.zip", members)
    return {"dataset": classes_of(names)}


@layout("Imagenette")
def imagenette(folder):
    train = [f"imagenette2/train/{wnid}/{wnid}_{i}.JPEG" for wnid in ("n01440764", "n03888257")
             for i in (10026, 9)]  # fmt: skip
    val = ["imagenette2/val/n03888257/ILSVRC2012_val_00000002.JPEG"]
    other = {"imagenette2/.DS_Store": b"x", "imagenette2/noisy_imagenette.csv": b"path,label\n"}
    write_tar(folder / "imagenette2.tgz", {**other, **jpegs(train), **jpegs(val, 4)}, "gz")
    return {"train": classes_of(train), "val": classes_of(val, 4)}


@layout("ImageNet-A and ImageNet-R")
def imagenet_a(folder):
    names = ["imagenet-a/n01498041/0.001_manhole.jpg", "imagenet-a/n01531178/0.9_jay.jpg"]
    write_tar(folder / "imagenet-a.tar", {"imagenet-a/README.txt": b"text", **jpegs(names)})
    return {"dataset": classes_of(names)}


@layout("ImageNet-V2")
def imagenet_v2(folder):
    numbers = [0, 1, 10, 100, 2, 999]
    root = "imagenetv2-matched-frequency-format-val"
    members = jpegs([f"{root}/{number}/{i:040x}.jpeg" for i, number in enumerate(numbers)])
    write_tar(folder / "imagenetv2-matched-frequency.tar.gz", members, "gz")
    return {"dataset": dict(enumerate(numbers))}


@layout("iNaturalist 2021")
def inaturalist(folder):
    classes = ["00000_Animalia_Annelida_Clitellata", "00001_Animalia_Annelida_Polychaeta"]
    for part, first in (("train_mini", 0), ("val", 2)):
        names = [f"{part}/{name}/{i}0e5.jpg" for i, name in enumerate(classes)]
        write_tar(folder / f"{part}.tar.gz", jpegs(names, first), "gz")
    return {"train": dict(enumerate(classes)), "val": dict(enumerate(classes, 2))}


@layout("Caltech-256")
def caltech_256(folder):
    names = ["001.ak47/001_0001.jpg", "198.spider/198_0001.jpg", "257.clutter/257_0001.jpg"]
    names = [f"256_ObjectCategories/{name}" for name in names]
    members = {**jpegs(names), "256_ObjectCategories/198.spider/RENAME2": b"rm x"}
    write_tar(folder / "256_ObjectCategories.tar", members)
    return {"dataset": classes_of(names)}


@layout("EuroSAT")
def eurosat(folder):
    names = ["2750/AnnualCrop/AnnualCrop_1.jpg", "2750/Forest/Forest_1.jpg"]
    write_zip(folder / "EuroSAT.zip", {"2750/": b"", **jpegs(names)})
    return {"dataset": classes_of(names)}


@layout("LFW")
def lfw(folder):
    names = [f"lfw-deepfunneled/{who}/{who}_0001.jpg" for who in ("Aaron_Eckhart", "Zoe_Ball")]
    write_tar(folder / "lfw-deepfunneled.tgz", jpegs(names), "gz")
    return {"people": classes_of(names)}


@layout("SUN397")
def sun397(folder):
    classes = ["abbey", "church/indoor", "church/outdoor"]
    names = [f"SUN397/{name[0]}/{name}/sun_{i}abc.jpg" for i, name in enumerate(classes)]
    texts = {"SUN397/ClassName.txt": lines(f"/{name[0]}/{name}" for name in classes)}
    write_tar(folder / "SUN397.tar.gz", {**jpegs(names), **texts, "SUN397/README.txt": b""}, "gz")
    return {"dataset": dict(enumerate(classes))}


@layout("GTSRB")
def gtsrb(folder):
    train = ["GTSRB/Training/00000/00000_00001.ppm", "GTSRB/Training/00042/00000_00000.ppm"]
    members = {name: picture(i, "PPM") for i, name in enumerate(train)}
    for number in (0, 42):
        members[f"GTSRB/Training/{number:05}/GT-{number:05}.csv"] = b"Filename;Width\n"
    write_zip(folder / "GTSRB-Training_fixed.zip", {"GTSRB/Readme-Images.txt": b"", **members})
    test = {f"GTSRB/Final_Test/Images/{i:05}.ppm": picture(2 + i, "PPM") for i in range(2)}
    test["GTSRB/Final_Test/Images/GT-final_test.test.csv"] = b"Filename;Width\n"
    write_zip(folder / "GTSRB_Final_Test_Images.zip", test)
    header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    rows = [header, "00000.ppm;53;54;6;5;48;49;16", "00001.ppm;42;45;5;5;36;40;1"]
    text = "".join(f"{row}\r\n" for row in rows)
    write_zip(folder / "GTSRB_Final_Test_GT.zip", {"GT-final_test.csv": text.encode()})
    return {"train": {0: "00000", 1: "00042"}, "test": {2: 16, 3: 1}}


@layout("Cityscapes, by city")
def cityscapes_cities(folder):
    names = [f"leftImg8bit/train/{city}/{city}_000000_000019_leftImg8bit.png"
             for city in ("aachen", "zurich")]  # fmt: skip
    others = ["leftImg8bit/val/ulm/ulm_000000_000001_leftImg8bit.png"]
    members = {name: picture(i, "PNG") for i, name in enumerate(names + others)}
    write_zip(
        folder / "leftImg8bit_trainvaltest.zip", {"README": b"", "license.txt": b"", **members}
    )
    return {"cities": classes_of(names)}


@layout("WIDER FACE, by event")
def wider(folder):
    names = ["0--Parade/0_Parade_marchingband_1_849.jpg", "9--Press_Conference/9_Press_1_2.jpg"]
    names = [f"WIDER_train/images/{name}" for name in names]
    write_zip(folder / "WIDER_train.zip", jpegs(names))
    return {"events": classes_of(names)}


# --- lists of images ------------------------------------------------------------------------


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


# --- labels in tables -----------------------------------------------------------------------


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


# --- arrays ---------------------------------------------------------------------------------


def python_2_pickle(value):
    """A pickle of protocol 2 as Python 2 writes it: its text is the opcode U, not X."""
    data = pickle.dumps(value, 2)
    for text in (*value, *value.get("filenames", ())):
        modern = b"X" + struct.pack("<I", len(text)) + text.encode()
        data = data.replace(modern, b"U" + bytes([len(text)]) + text.encode())
    return data


def write_cifar(path, member, labels):
    pixels = np.repeat(np.arange(4, dtype=np.uint8)[:, None] * 8, 3072, 1)
    files = [f"leptodactylus_{i}.png" for i in range(4)]
    batch = {"batch_label": "training batch", "data": pixels, "filenames": files, **labels}
    write_tar(path, {member: python_2_pickle(batch)}, "gz")


@layout("CIFAR-10")
def cifar_10(folder):
    member = "cifar-10-batches-py/data_batch_1"
    write_cifar(folder / "cifar-10-python.tar.gz", member, {"labels": [6, 9, 9, 4]})
    return {"labels": [6, 9, 9, 4]}


@layout("CIFAR-100")
def cifar_100(folder):
    labels = {"fine_labels": [19, 29, 0, 11], "coarse_labels": [11, 15, 4, 14]}
    write_cifar(folder / "cifar-100-python.tar.gz", "cifar-100-python/train", labels)
    return {"labels": [19, 29, 0, 11]}


def idx(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + array.astype(np.uint8).tobytes()


def gray(count, height=28, width=28):
    return np.arange(count, dtype=np.uint8)[:, None, None] * 8 + np.zeros((height, width), np.uint8)


@layout("MNIST, Fashion-MNIST, and KMNIST")
def mnist(folder):
    for name, array in (("images-idx3", gray(3)), ("labels-idx1", np.array([5, 0, 4]))):
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return {"labels": [5, 0, 4]}


@layout("EMNIST")
def emnist(folder):
    files = {"images-idx3": gray(2), "labels-idx1": np.array([23, 7])}
    members = {
        f"gzip/emnist-letters-train-{name}-ubyte.gz": gzip.compress(idx(array))
        for name, array in files.items()
    }
    write_zip(folder / "gzip.zip", members)
    return {"labels": [23, 7]}


@layout("STL-10")
def stl_10(folder):
    pixels = np.zeros((2, 3, 96, 96), np.uint8)
    # Channel, column, row: the first row of the first image is bright.
    pixels[0, :, :, 0] = 200
    members = {
        "stl10_binary/class_names.txt": b"airplane\n",
        "stl10_binary/fold_indices.txt": b"0 1\n",
        "stl10_binary/train_X.bin": pixels.tobytes(),
        "stl10_binary/train_y.bin": bytes([2, 10]),
    }
    write_tar(folder / "stl10_binary.tar.gz", members, "gz")
    return {"labels": [1, 9]}


@layout("Arrays as a dataset")
def arrays(folder):
    return {}


@layout("SVHN")
def svhn(folder):
    pixels = np.moveaxis(np.repeat(gray(2, 32, 32)[..., None], 3, 3), 0, 3)
    (folder / "train_32x32.mat").write_bytes(mat(X=pixels, y=np.array([[1], [10]], np.uint8)))
    return {"labels": [1, 0]}


# --- masks and other files ------------------------------------------------------------------
# Here the dict is from the number of an image to fields of its sample.


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
