"""Datasets, the loader, and the command line over a TAR of TARs."""

import pickle

import numpy as np
import pytest
from support.archives import encoded, tar_bytes, write_tar

import imagearchive
from imagearchive import DataLoader, ImageArchive
from imagearchive.cli import main
from imagearchive.errors import OptionError

CLASSES = 20
EACH = 3


def image(number):
    return encoded(np.full((8, 8, 3), number, np.uint8))


@pytest.fixture
def imagenet(tmp_path):
    """A small archive laid out as the training set of ImageNet."""
    members = {
        f"n{wnid:08}.tar": tar_bytes(
            {f"n{wnid:08}_{i}.JPEG": image(EACH * wnid + i) for i in range(EACH)}
        )
        for wnid in range(CLASSES)
    }
    return write_tar(tmp_path / "ILSVRC2012_img_train.tar", members)


def test_image_archive_tar_of_tars_has_a_class_for_each(imagenet):
    dataset = ImageArchive(imagenet)
    assert dataset.classes == [f"n{wnid:08}" for wnid in range(CLASSES)]
    assert [label for _, label in dataset] == [i // EACH for i in range(CLASSES * EACH)]
    assert np.asarray(dataset[17][0])[0, 0, 0] == 17
    again = pickle.loads(pickle.dumps(dataset))
    assert len(again) == CLASSES * EACH
    assert np.asarray(again[17][0])[0, 0, 0] == 17


def test_image_archive_nested_false_takes_archives_as_files(imagenet):
    assert len(ImageArchive(imagenet, nested=False)) == CLASSES


def test_loader_reads_a_tar_of_tars_unless_told_otherwise(imagenet):
    with DataLoader(imagenet, batch_size=CLASSES * EACH, output="numpy", shuffle=False) as loader:
        (batch,) = loader
        assert [sample["image"][0, 0, 0] for sample in batch] == list(range(CLASSES * EACH))
        assert [sample["label"] for sample in batch] == [i // EACH for i in range(CLASSES * EACH)]
    with pytest.raises(OptionError, match="nested= is for paths"):
        DataLoader(ImageArchive(imagenet), nested=True)


@pytest.mark.parametrize(
    ("option", "listed"),
    [
        ([], "n00000000"),
        (["--nested", "no"], "n00000000.tar"),
        (["--nested", "keep"], "n00000000.tar"),
    ],
)
def test_command_ls_lists_the_chosen_view(imagenet, capsys, option, listed):
    assert main(["ls", *option, str(imagenet)]) == 0
    assert capsys.readouterr().out.split()[0].rstrip("/") == listed


def test_command_extract_writes_the_nested_view(imagenet, tmp_path, capsys):
    assert main(["extract", str(imagenet), str(tmp_path / "out")]) == 0
    written = tmp_path / "out" / "n00000005" / "n00000005_2.JPEG"
    assert written.read_bytes() == image(17)


def test_command_nested_of_no_meaning_is_refused(imagenet, capsys):
    assert main(["ls", "--nested", "9", str(imagenet)]) == 2
    assert "auto, yes, no, keep" in capsys.readouterr().err


def test_verify_and_convert_use_the_nested_view(imagenet, tmp_path):
    with imagearchive.open(imagenet, nested="auto") as archive:
        assert imagearchive.verify(archive).files == CLASSES * EACH
        assert not imagearchive.verify(archive).failures
        imagearchive.convert(archive, tmp_path / "flat.zip")
    with imagearchive.open(tmp_path / "flat.zip") as flat:
        assert flat["n00000005/n00000005_2.JPEG"] == image(17)
