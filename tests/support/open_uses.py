"""Uses of archives that are open: each opens one, and returns a function that reads it."""

from functools import partial

import numpy as np

import imagearchive
from imagearchive.archive.convert import convert
from imagearchive.archive.verify import verify
from imagearchive.transforms import Compose, Normalize, Resize
from support.archives_of_images import (
    COUNT,
    IMAGES,
    barecat,
    bins,
    deflated_npz,
    deflated_zip,
    lone_npy,
    npz,
    object_npz,
    object_only_npz,
    stored_zip,
    tar,
)

NORMALIZED = (Normalize(0.5, 0.5),)

RESIZED = (Resize(32, 32), *NORMALIZED)


def every_name(path, storage):
    archive = imagearchive.open(path, storage=storage)
    names = list(archive)
    assert archive[names[0]] == IMAGES[names[0]]
    return lambda: {name: archive[name] for name in names}


def every_get(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()
    return lambda: {name: archive.get(name) for name in IMAGES}


def every_file(path, storage):
    archive = imagearchive.open(path, storage=storage)
    files = {name: archive.open(name) for name in IMAGES}
    return lambda: {name: file.read() for name, file in files.items()}


def small_reads(path, storage):
    archive = imagearchive.open(path, storage=storage)
    files = {name: archive.open(name) for name in IMAGES}
    return lambda: {
        name: b"".join(iter(partial(file.read, 99), b"")) for name, file in files.items()
    }


def views(path, storage):
    """The views of a user, who asks after using them."""
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        found = {name: bytes(archive.read(name)) for name in IMAGES}
        if found != IMAGES:
            archive.check_unchanged()
        return found

    return use


def many_views(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        found = [bytes(data) for data in archive.read_many(IMAGES)]
        if found != list(IMAGES.values()):
            archive.check_unchanged()
        return dict(zip(IMAGES, found))

    return use


def decoded(path, storage):
    view = imagearchive.DecodedView(imagearchive.open(path, storage=storage))
    view.store.open_file()
    return lambda: [int(view[name].sum()) for name in IMAGES]


def images(path, storage):
    dataset = imagearchive.ImageArchive(path, storage=storage)
    return lambda: [int(np.asarray(dataset[i][0]).sum()) for i in range(len(dataset))]


def raw_images(path, storage):
    """A loader of the user that accepts any bytes."""
    dataset = imagearchive.ImageArchive(path, storage=storage, loader=lambda file: file.read())
    return lambda: {dataset.name(i): dataset[i][0] for i in range(len(dataset))}


def loader(on_error="raise", transform=RESIZED, **options):
    def open_loader(path, storage):
        dataset = imagearchive.ImageArchive(path, storage=storage)
        return batches_of(dataset, on_error, transform, **options)

    return open_loader


def batches_of(dataset, on_error="skip", transform=NORMALIZED, num_workers=2, **options):
    batches = imagearchive.DataLoader(
        dataset,
        batch_size=8,
        shuffle=False,
        transform=None if transform is None else Compose(transform),
        on_error=on_error,
        num_workers=num_workers,
        output="numpy",
        **options,
    )
    return lambda: sum(len(batch[0]) if transform else len(batch) for batch in batches)


def npz_loader(path, storage):
    return batches_of(imagearchive.LazyNPZDataset(path, storage=storage))


def combined_loader(path, storage):
    one = imagearchive.LazyNPZDataset(path, storage=storage)
    return batches_of(imagearchive.CombinedLazyDataset([one, one]))


def rows(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    names = list(dataset[0])
    return lambda: [[str(dataset[i][name])[:9] for name in names] for i in range(COUNT)]


def row_batches(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    return lambda: int(dataset.get_batch(range(COUNT))["images"].sum())


def whole_array(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    return lambda: int(dataset.arrays["images"].sum())


def lone_rows(path, storage):
    dataset = imagearchive.LazyNPZDataset(path, storage=storage)
    return lambda: int(dataset.get_batch(range(COUNT))["a"].sum())


def packets(path, storage):
    dataset = imagearchive.SplitDataLoader(str(path.parent), storage=storage)
    dataset[0]
    return lambda: dict(zip(IMAGES, (dataset[i] for i in range(COUNT))))


def packet_views(path, storage):
    dataset = imagearchive.SplitDataLoader(str(path.parent), storage=storage, cache_size=COUNT)
    dataset[0]
    return lambda: dict(zip(IMAGES, dataset.__getitems__(range(COUNT))))


def barecat_names(path, storage):
    return every_name(path.parent / "a.barecat", storage)


def extraction(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        target = path.parent / "extracted"
        imagearchive.extract(archive, target)
        return {name: (target / name).read_bytes() for name in IMAGES}

    return use


def conversion(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()

    def use():
        target = path.parent / "converted.tar"
        convert(archive, target)
        return dict(imagearchive.open(target))

    return use


def verification(path, storage):
    archive = imagearchive.open(path, storage=storage)
    archive.open_file()
    return lambda: len(verify(archive, decode=True).failures)


#: What notices that bytes are other ones: by decoding them, or by a checksum.
CHECKED = {
    "decoded view": (tar, decoded),
    "ImageArchive[i]": (tar, images),
    "loader": (tar, loader()),
    "loader without threads": (tar, loader(num_workers=0)),
    "loader that skips": (tar, loader("skip")),
    "loader that replaces": (tar, loader("replace")),
    "loader of dicts": (tar, loader("skip", None)),
    "deflated names": (deflated_zip, every_name),
    "deflated files": (deflated_zip, every_file),
    "loader of a deflated ZIP": (deflated_zip, loader("skip")),
    "deflated rows": (deflated_npz, row_batches),
    "loader of deflated rows": (deflated_npz, npz_loader),
    "objects": (object_only_npz, rows),
    "extraction of a ZIP": (stored_zip, extraction),
    "conversion of a ZIP": (stored_zip, conversion),
    "conversion of a deflated ZIP": (deflated_zip, conversion),
}

#: What has nothing to compare bytes with.
UNCHECKED = {
    "names": (tar, every_name),
    "get": (tar, every_get),
    "files": (tar, every_file),
    "small reads": (tar, small_reads),
    "views": (tar, views),
    "read_many": (tar, many_views),
    "loader of the user": (tar, raw_images),
    "rows": (npz, rows),
    "rows and objects": (object_npz, rows),
    "row batches": (npz, row_batches),
    "whole array": (npz, whole_array),
    "lone array": (lone_npy, lone_rows),
    "loader of rows": (npz, npz_loader),
    "loader of several files": (npz, combined_loader),
    "packets": (bins, packets),
    "cached packets": (bins, packet_views),
    "barecat": (barecat, barecat_names),
    "extraction": (tar, extraction),
    "conversion": (tar, conversion),
}
