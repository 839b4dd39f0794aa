"""Train an image classifier from an archive: a complete recipe.

With one process::

    python examples/train_classifier.py train.tar --val val.tar

With two processes, each with its part of every epoch::

    torchrun --nproc-per-node 2 examples/train_classifier.py train.tar --val val.tar

The checkpoint includes the state of the loader. A run that was stopped in the middle of an epoch
resumes with the samples it has not seen, on any number of processes. With the same number of
processes, it ends with exactly the weights of a run that was not stopped. (On a GPU, that needs
``torch.use_deterministic_algorithms(True)``.)
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imagearchive import DataLoader, ImageArchive
from imagearchive.errors import ImageArchiveError
from imagearchive.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    ImageNetNormalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)


class SmallNet(nn.Module):
    """A small residual network; replace it with any network from torchvision or timm."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList()
        for _ in range(2):
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(width, width, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(width),
                )
            )
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores of a batch, shape (N, classes)."""
        features = self.stem(images)
        for block in self.blocks:
            features = torch.relu(features + block(features))
        return self.head(features.mean((2, 3)))


def count(text: str) -> int:
    """Parse an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="archive of images in one directory per class")
    parser.add_argument("--val", help="archive for validation")
    parser.add_argument(
        "--out", type=Path, default=Path("run"), help="directory for the checkpoint"
    )
    parser.add_argument("--epochs", type=count, default=90)
    parser.add_argument("--batch-size", type=count, default=256, help="per process")
    parser.add_argument(
        "--size", type=count, default=224, help="width and height of the training images"
    )
    parser.add_argument(
        "--lr", type=float, default=0.1, help="learning rate for a total batch size of 256"
    )
    parser.add_argument("--warmup", type=float, default=5, help="epochs")
    parser.add_argument("--workers", type=int, default=None, help="loader threads per process")
    parser.add_argument(
        "--amp",
        choices=["off", "bfloat16", "float16"],
        default="bfloat16" if torch.cuda.is_available() else "off",
        help="mixed precision; bfloat16 also works on CPUs",
    )
    parser.add_argument("--checkpoint-every", type=count, default=500, help="steps")
    parser.add_argument("--max-steps", type=count, default=None, help="stop early, as if killed")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def same_classes(train: ImageArchive, val: ImageArchive) -> None:
    """Raise an error if the two archives number their classes differently."""
    if not train.classes:
        raise SystemExit(f"{train}: no class directories found")
    if train.classes != val.classes:
        other = sorted(set(train.classes) ^ set(val.classes))
        raise SystemExit(
            f"the training and validation archives have different classes: only one of them has "
            f"{', '.join(other[:5])}{', …' * (len(other) > 5)}"
        )


class Run:
    """The state of a training run: model, optimizer, loaders, checkpoint."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options = options
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        normalize = [ImageNetNormalize(), ToTensor()]
        size = options.size
        common: dict[str, Any] = {
            "batch_size": options.batch_size,
            "num_workers": options.workers,
            "pin_memory": device.type == "cuda",
            "enable_distributed": self.ranks > 1,
            "channels_last": device.type == "cuda",
        }
        train = ImageArchive(options.train)
        val = ImageArchive(options.val) if options.val else None
        same_classes(train, val or train)
        self.loader = DataLoader(
            train,
            transform=Compose(
                [
                    RandomResizedCrop(size),
                    RandomHorizontalFlip(),
                    ColorJitter(0.2, 0.2, 0.2, 0.1),
                    *normalize,
                ]
            ),
            shuffle=True,
            drop_last=True,  # the same number of batches on every rank
            seed=options.seed,
            on_error="replace",  # a broken image does not end the run
            **common,
        )
        if not len(self.loader):
            raise SystemExit(f"{options.train}: not enough images for one batch per process")
        self.val_loader = None
        if val is not None:
            self.val_loader = DataLoader(
                val,
                transform=Compose([Resize(size * 8 // 7), CenterCrop(size, size), *normalize]),
                **common,
            )
        torch.manual_seed(options.seed)
        model: nn.Module = SmallNet(len(train.classes)).to(device)
        if device.type == "cuda":
            model = model.to(memory_format=torch.channels_last)
        self.plain = model
        self.model = DistributedDataParallel(model) if self.ranks > 1 else model
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=options.lr, momentum=0.9, weight_decay=5e-5, nesterov=True
        )
        self.amp = options.amp != "off"
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "float16")
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.step = 0
        self.path = options.out / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint to a temporary file, then rename it."""
        if self.rank:
            return
        self.options.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.plain.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "step": self.step,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)

    def load(self) -> None:
        """Load the checkpoint if there is one."""
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        self.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.loader.load_state_dict(state["loader"])
        self.step = state["step"]
        if self.rank == 0:
            print(f"resumed at step {self.step}, epoch {self.loader.epoch}")

    def learning_rate(self) -> float:
        """Return the learning rate for the current batch: linear warmup, then cosine decay.

        It depends on the number of samples seen, so it does not depend on the number of processes.
        """
        options, state = self.options, self.loader.state_dict()
        done = state["epoch"] + state["position"] / state["n"]
        peak = options.lr * options.batch_size * self.ranks / 256
        if done < options.warmup:
            return peak * max(done / options.warmup, 0.01)
        rest = max(options.epochs - options.warmup, 1)
        return peak * (1 + math.cos(math.pi * min((done - options.warmup) / rest, 1))) / 2

    def train_epoch(self, writer: Any, stop: list[bool]) -> bool:
        """Train for the rest of the epoch; return False if the run has to stop."""
        epoch, options = self.loader.epoch, self.options
        self.model.train()
        start, seen = time.perf_counter(), 0
        loss = torch.zeros(())
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            rate = self.learning_rate()
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            kind = torch.float16 if options.amp == "float16" else torch.bfloat16
            with torch.autocast(self.device.type, kind, enabled=self.amp):
                loss = self.criterion(self.model(images), labels)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.step += 1
            seen += len(images)
            if writer is not None and self.step % 10 == 0:
                writer.add_scalar("train/loss", loss.item(), self.step)
                writer.add_scalar("train/lr", rate, self.step)
            if self.step % options.checkpoint_every == 0:
                self.save()
            if self.step == options.max_steps or (self.step % 10 == 0 and self.agree(stop[0])):
                self.save()
                return False
        if self.rank == 0:
            speed = seen / (time.perf_counter() - start)
            print(f"epoch {epoch}: loss {loss.item():.3f}, {speed:.0f} images/s on this process")
        self.save()
        return True

    def agree(self, stop: bool) -> bool:
        """Return whether any process has to stop; all must leave the loop after the same step."""
        if not dist.is_initialized():
            return stop
        flag = torch.tensor(int(stop), device=self.device)
        dist.all_reduce(flag)
        return bool(flag)

    @torch.no_grad()
    def validate(self) -> float:
        """Return the accuracy on the validation images, over all ranks."""
        self.model.eval()
        counts = torch.zeros(2, dtype=torch.float64, device=self.device)
        for images, labels in self.val_loader:
            scores = self.plain(images.to(self.device, non_blocking=True))
            right = scores.argmax(1) == labels.to(self.device)
            counts += torch.tensor([right.sum(), len(labels)], device=self.device)
        if dist.is_initialized():
            # Every sample was used exactly once, so this accuracy is exact.
            dist.all_reduce(counts)
        return float(counts[0] / counts[1])


@contextlib.contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the process group if torchrun started several processes; yield the device to use."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def board(folder: Path, rank: int) -> Any:
    """Return a TensorBoard writer, or None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder)) if rank == 0 else None


def main() -> None:
    """Train until the last epoch, or until the run has to stop."""
    options = parse()
    stop = [False]
    # Cluster schedulers send SIGTERM before they kill a job; save a checkpoint then.
    signal.signal(signal.SIGTERM, lambda *_: stop.__setitem__(0, True))
    with process_group() as device:
        run = Run(options, device)
        run.load()
        writer = board(options.out, run.rank)
        while run.loader.epoch < options.epochs:
            epoch = run.loader.epoch
            if not run.train_epoch(writer, stop):
                break
            if run.val_loader is None:
                continue
            accuracy = run.validate()
            if run.rank == 0:
                print(f"epoch {epoch}: accuracy {accuracy:.3f}")
            if writer is not None:
                writer.add_scalar("val/accuracy", accuracy, run.step)
        if run.rank == 0:
            for bad in run.loader.errors:
                print(f"broken: {bad.member}: {bad.reason}")
        if writer is not None:
            writer.close()


if __name__ == "__main__":
    try:
        main()
    except ImageArchiveError as error:
        sys.exit(f"{type(error).__name__}: {error}")
