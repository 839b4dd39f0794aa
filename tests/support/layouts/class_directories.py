"""Layouts with one directory for each class."""

import gzip

from support.layouts.files import jpegs, layout, lines, picture, tar_bytes, write_tar, write_zip


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
