"""TurboLoader's PyTorch integration guide, block by block.

The blocks are as published, except for the import line of the library and the placeholder paths.
Minimal stand-ins replace what a test machine lacks: torchvision, pytorch_lightning, and CUDA.
"""

import builtins
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import types

import numpy as np
import pytest
from PIL import Image
from support.turboloader_guide import (
    ACCUMULATION,
    BATCH_SIZE,
    COMPLETE,
    CONVERT,
    DISTRIBUTED,
    LIGHTNING,
    MIXED_PRECISION,
    ORDERING,
    PINNING,
    PREFETCH,
    QUICK_START,
    TO_TENSOR,
    VALIDATION,
    WORKER_COUNT,
)

from imagearchive.compat import turboloader

torch = pytest.importorskip("torch")
nn, optim = torch.nn, torch.optim
IMPORT = "from imagearchive.compat import turboloader"
COUNT = 10
CLASSES = 2


def write_tar(path, count, size=(20, 16)):
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG")
            info = tarfile.TarInfo(f"class_{number % CLASSES}/{number:05d}.jpg")
            info.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(info, buffer)
    return str(path)


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    return write_tar(tmp_path_factory.mktemp("tar") / "some.tar", COUNT)


class Model(nn.Module):
    """A stand-in for a residual network: takes (N, 3, H, W) floats, returns class scores."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.scale = nn.Linear(3, num_classes)

    def forward(self, images):
        assert images.dtype == torch.float32
        assert images.shape[1] == 3
        return self.scale(images.mean((2, 3)))


def run(block, tar, **names):
    """Execute a block with the import line and the placeholder paths replaced."""
    text = block.replace("import turboloader", IMPORT)
    for placeholder in ("imagenet_train.tar", "imagenet_val.tar", "data.tar"):
        text = text.replace(placeholder, tar)
    namespace = {"turboloader": turboloader, "torch": torch, "nn": nn, "optim": optim, **names}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, "<block>", "exec"), namespace)
    namespace["printed"] = printed.getvalue()
    return namespace


def common(tar):
    model = Model()
    return {
        "loader": turboloader.DataLoader(tar, batch_size=4, num_workers=2),
        "model": model,
        "criterion": nn.CrossEntropyLoss(),
        "optimizer": optim.SGD(model.parameters(), lr=0.1),
        "device": torch.device("cpu"),
    }


def small(batch):
    resized = turboloader.Compose([turboloader.Resize(8, 8), turboloader.ToTensor()])
    return torch.stack([torch.from_numpy(resized.apply(s["image"])).float() for s in batch])


def test_guide_quick_start_gives_normalized_images(tar):
    names = run(QUICK_START, tar, model=Model(), criterion=nn.CrossEntropyLoss())
    assert names["images"].shape == (COUNT, 3, 224, 224)
    assert names["images"].dtype == torch.float32
    # Normalized values, not the few integers that a cast to bytes would leave.
    assert len(names["images"].unique()) > 500
    assert names["images"].min() < -1
    assert sorted(names["labels"].tolist()) == [0] * 5 + [1] * 5
    assert len(names["loader"]) == 1


def test_guide_images_are_height_width_channel_bytes(tar):
    names = run(CONVERT, tar)
    assert names["image_np"].shape == (16, 20, 3)
    assert names["image_np"].dtype == np.uint8
    assert names["image_tensor"].shape == (3, 16, 20)
    assert 0 <= names["image_tensor"].min() <= names["image_tensor"].max() <= 1


def test_guide_to_tensor_changes_only_the_layout(tar):
    names = run(TO_TENSOR, tar, **common(tar))
    image = names["sample"]["image"]
    assert np.array_equal(names["image_chw"], image.transpose(2, 0, 1))
    assert names["image_tensor"].max() <= 1


def stub_module(monkeypatch, name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def test_guide_training_and_validation_run(tar, monkeypatch):
    stub_module(monkeypatch, "torchvision")
    stub_module(monkeypatch, "torchvision.models", resnet50=Model)
    # Two epochs show as much as ninety.
    names = run(COMPLETE, tar, range=lambda count: builtins.range(min(count, 2)))
    lines = names["printed"].splitlines()
    assert lines[0].startswith("Epoch 0 [0/1] Loss: ")
    assert lines[-1].startswith("Epoch 1 completed. Acc: ")
    assert names["total"] == COUNT
    names = run(VALIDATION, tar, model=names["model"], device=names["device"])
    assert names["printed"].startswith("Validation Accuracy: ")
    assert names["total"] == COUNT


STAND_INS = """
import atexit, builtins, multiprocessing, os, sys
import torch, torch.distributed, torch.nn.parallel
from torch import nn, optim

cpu, real_device = torch.device("cpu"), torch.device

class AnyDevice(type):
    def __instancecheck__(cls, thing):
        return isinstance(thing, real_device)

class device(metaclass=AnyDevice):
    def __new__(cls, *arguments):
        return cpu

real_parallel = torch.nn.parallel.DistributedDataParallel
real_group = torch.distributed.init_process_group
torch.device = device
torch.cuda.device_count = lambda: 2
torch.cuda.set_device = lambda rank: None
torch.nn.parallel.DistributedDataParallel = lambda model, device_ids: real_parallel(model)
torch.distributed.init_process_group = lambda backend, **rest: real_group(backend="gloo", **rest)

def range(count):
    return builtins.range(min(count, 2))

def leave():
    # Some builds of torch occasionally abort in their destructors, when everything is done.
    sys.stdout.flush()
    os._exit(0)

if multiprocessing.parent_process() is not None:
    atexit.register(leave)

class resnet50(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.scale = nn.Linear(3, num_classes)
    def forward(self, images):
        assert images.shape == (256, 3, 224, 224)
        return self.scale(images.mean((2, 3)))
"""


def test_guide_distributed_training_runs(tmp_path):
    tar = write_tar(tmp_path / "many.tar", 520, (8, 8))
    block = DISTRIBUTED.replace("import turboloader", IMPORT).replace("imagenet_train.tar", tar)
    program = tmp_path / "program.py"
    program.write_text(STAND_INS + block)
    environment = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "Epoch 0 completed\nEpoch 1 completed\n"


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_guide_lightning_data_module_yields_every_sample(tar, monkeypatch):
    stub_module(monkeypatch, "pytorch_lightning", LightningDataModule=object)
    names = run(LIGHTNING, tar)
    module = names["ImageNetDataModule"](tar, tar, batch_size=4, num_workers=2)
    module.setup()
    for samples in (list(module.train_dataloader()), list(module.val_dataloader())):
        assert len(samples) == COUNT
        assert sorted(label for _, label in samples) == [0] * 5 + [1] * 5
        assert all(image.shape == (3, 224, 224) for image, _ in samples)


def test_guide_best_practices_run(tar, monkeypatch):
    names = run(ORDERING, tar)
    assert names["transforms"].apply(np.zeros((30, 30, 3), np.uint8)).shape == (3, 224, 224)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    names = run(PINNING, tar, images=[torch.zeros(3, 4, 4)] * 2, device=torch.device("cpu"))
    assert names["images"].shape == (2, 3, 4, 4)


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")
def test_guide_mixed_precision_and_accumulation_run(tar):
    options = common(tar)
    run(MIXED_PRECISION, tar, process_batch=small, labels=torch.tensor([0] * 4), **options | {
        "loader": turboloader.DataLoader(tar, batch_size=4, num_workers=2, drop_last=True)
    })  # fmt: skip

    def both(batch):
        return small(batch), torch.tensor([sample["label"] for sample in batch])

    names = run(ACCUMULATION, tar, process_batch=both, **options)
    assert names["batch_idx"] == 2


def test_guide_performance_tuning_runs(tar):
    printed = run(WORKER_COUNT, tar)["printed"].splitlines()
    assert [line.split(",")[0] for line in printed] == [f"Workers: {n}" for n in (1, 2, 4, 8, 16)]
    assert run(BATCH_SIZE, tar)["batch_size"] == 512
    names = run(PREFETCH, tar, process_batch=small, **common(tar))
    names["thread"].join()
    assert names["images"] is None
    assert names["outputs"].shape == (2, 1000)


def test_guide_shuffling_and_ranks_partition_samples(tar):
    loader = turboloader.DataLoader(tar, batch_size=4, num_workers=2, shuffle=True)
    epochs = [[s["label"] for batch in loader for s in batch] for _ in range(2)]
    assert all(sorted(labels) == [0] * 5 + [1] * 5 for labels in epochs)
    ranks = [
        turboloader.DataLoader(
            tar, batch_size=2, num_workers=1, drop_last=True, rank=rank, world_size=2
        )
        for rank in range(2)
    ]
    parts = [[s["filename"] for batch in loader for s in batch] for loader in ranks]
    assert [len(part) for part in parts] == [4, 4]
    assert not set(parts[0]) & set(parts[1])
