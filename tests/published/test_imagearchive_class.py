"""The documentation of the class ImageArchive, block by block."""

import os
import sys
import types

import numpy as np
import pytest
from PIL import Image
from support.archives import encoded, write_tar

import imagearchive

torch = pytest.importorskip("torch")


@pytest.fixture
def _stand_in_torchvision(monkeypatch):
    """The names of torchvision that the guide uses; it has no build for every machine."""
    transforms = types.ModuleType("torchvision.transforms")

    class Compose:
        def __init__(self, steps):
            self.steps = steps

        def __call__(self, image):
            for step in self.steps:
                image = step(image)
            return image

    class Resize:
        def __init__(self, size):
            self.size = size

        def __call__(self, image):
            return image.resize((self.size, self.size))

    class Nothing:
        def __call__(self, image):
            return image

    class ToTensor:
        def __call__(self, image):
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    transforms.Compose, transforms.RandomResizedCrop = Compose, Resize
    transforms.RandomHorizontalFlip, transforms.ToTensor = Nothing, ToTensor
    package = types.ModuleType("torchvision")
    package.transforms = transforms
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.transforms", transforms)


GUIDE = [
    """
dataset = ImageArchive(apath='path/to/my/archive.tar')
assert len(dataset) == 13
""",
    """
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  extensions=('.jpg','.jpeg')
)
assert len(dataset) == 1
""",
    """
dataset = ImageArchive(
  apath='path/to/other/archive.tar',
  root='images/train/'
)
assert dataset.classes == ['cat', 'cat-b', 'dog']
""",
    """
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  ipath='path/to/my/index'
)
assert os.path.exists('path/to/my/index')
""",
    """
def my_loader(file: BinaryIO):
  img = my_module.open(file)
  ...
  return img

dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  loader = my_loader
)
assert dataset[0][0].size == (7, 9)
""",
    """
import torchvision.transforms as transforms
import torch
from PIL import Image
import numpy as np

def rescale_bbox(
  img:Image.Image,
  labels:List
):
  \"\"\"
  Rescale bounding box to range [0,1] with respect to image
  original dimensions
  \"\"\"
  src_width  = img.size[0]
  src_height = img.size[1]
  return np.array([
    labels[0]/src_width,
    labels[1]/src_height,
    labels[2]/src_width,
    labels[3]/src_height])

transform = transforms.Compose([
 transforms.RandomResizedCrop(224),
 transforms.RandomHorizontalFlip(),
 transforms.ToTensor()])

dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  transform=transform,
  target_transform=index_to_one_hot
)
image, target = dataset[0]
assert image.shape == (3, 224, 224)
assert target == [0.0, 0.0, 1.0]
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  label_file='path/to/my/boxes.txt',
  target_transform=rescale_bbox
)
assert dataset[0][1].tolist() == [1 / 7, 2 / 9, 3 / 7, 4 / 9]
""",
    """
dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  data_in_memory=True
)
assert dataset[0][1] == 2
""",
    """
import torch.utils.data
import torchvision.transforms as transforms

open_after_fork = True
transform = transforms.Compose([
  transforms.RandomResizedCrop(224),
  transforms.RandomHorizontalFlip(),
  transforms.ToTensor()
])

train_dataset = ImageArchive(
  apath='path/to/my/archive.tar',
  transform = transform,
  data_in_memory = False,
  open_after_fork = True)

worker_init_fn = train_dataset.worker_open_archive if open_after_fork else None

train_loader = torch.utils.data.DataLoader(
  train_dataset, batch_size=64, shuffle=False,
  num_workers=10, worker_init_fn=train_dataset.worker_open_archive,
  pin_memory=True
)
images, labels = next(iter(train_loader))
assert images.shape == (13, 3, 224, 224)
assert labels.tolist() == list(train_dataset.targets)
""",
]


@pytest.mark.usefixtures("_stand_in_torchvision")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*", "ignore:.*will create 10 worker.*")
@pytest.mark.parametrize("code", GUIDE)
def test_imagearchive_class_block(code, tmp_path, monkeypatch, pictures, mixed_tar):
    from typing import BinaryIO

    monkeypatch.chdir(tmp_path)
    os.makedirs("path/to/my")
    os.makedirs("path/to/other")
    jpeg = encoded(np.zeros((9, 7, 3), np.uint8), "JPEG")
    write_tar("path/to/my/archive.tar", {**pictures, "dog/last.jpg": jpeg})
    os.rename(mixed_tar, "path/to/other/archive.tar")
    with open("path/to/my/boxes.txt", "w") as file:
        file.write("0 1 2 3 4\n")
    exec(
        code,
        {
            "ImageArchive": imagearchive.ImageArchive,
            "BinaryIO": BinaryIO,
            "List": list,
            "my_module": Image,
            "os": os,
            "index_to_one_hot": lambda image, labels: [float(labels[0] == i) for i in range(3)],
        },
    )
