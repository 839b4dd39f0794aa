"""What else reads samples from servers: webdataset, litdata, and MosaicML streaming.

Each writes the same images in its own format, and reads them back in batches from the server, with
two worker processes. litdata and MosaicML streaming know buckets, but no HTTP URLs; they take the
server for one that speaks S3. They are not in the extra `bench`, because they would change the
versions of other packages:

    pip install litdata mosaicml-streaming
"""

from __future__ import annotations

import importlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

__all__ = ["Peer", "Session", "installed_peers"]

BATCH = 64
WORKERS = 2
BUCKET = "data"
# Samples in a chunk of litdata, which take as much as its default, 64 MB.
CHUNK = 1024


class Session(NamedTuple):
    """Samples that were opened.

    Attributes
    ----------
    batches : callable
        Returns an iterator over the batches of the next epoch.
    state : callable
        Returns what `Peer.open` needs to go on after the batches of this epoch so far.
    """

    batches: Callable[[], Iterator[Sequence[Any]]]
    state: Callable[[], Any]


class Peer(Protocol):
    """A way to read samples from a server."""

    name: str
    #: The package that it needs.
    package: str

    def write(self, folder: Path, images: Iterator[bytes]) -> None:
        """Write images into an empty folder, whose files the server then has."""

    def open(self, url: str, cache: Path, state: Any = None) -> Session:
        """Open the folder at a URL, with an empty folder for a cache, maybe in mid-epoch."""


def installed_peers() -> list[Peer]:
    """Return those that can be used; print which cannot."""
    found: list[Peer] = []
    for peer in (WebDataset(), WebDataset(cached=True), LitData(), MosaicStreaming()):
        try:
            importlib.import_module(peer.package)
        except ImportError as error:
            print(f"{peer.name}: not installed ({error})")
        else:
            found.append(peer)
    return found


def _decode(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


class WebDataset:
    """webdataset reads TARs in the order of the shards, by `curl`; the script writes them.

    It has no state: to go on in mid-epoch, it reads everything before that again.
    """

    package = "webdataset"

    def __init__(self, cached: bool = False) -> None:
        self.cached = cached
        self.name = "webdataset, cache" if cached else "webdataset"

    def write(self, folder: Path, images: Iterator[bytes]) -> None:
        """Do nothing: it reads the same shards as we do."""

    def open(self, url: str, cache: Path, state: Any = None) -> Session:
        import webdataset

        dataset = webdataset.WebDataset(
            url, shardshuffle=False, cache_dir=str(cache) if self.cached else None
        )
        dataset = dataset.map(_decode_webdataset).batched(BATCH)
        loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS)
        count = 0

        def batches() -> Iterator[Any]:
            nonlocal count
            count = 0
            for images, _ in loader:
                count += 1
                if count > (state or 0):
                    yield images

        return Session(batches, lambda: count)


def _decode_webdataset(sample: dict[str, Any]) -> tuple[Any, str]:
    return _decode(sample["jpg"]), sample["__key__"]


class LitData:
    """litdata reads chunks, shuffles inside them, and keeps them in its cache.

    Each chunk belongs to one worker: of a chunk that two workers share, one of them reads parts
    that are not there yet (0.2.76). It decodes sample by sample, because its default reads a whole
    chunk for a few samples of a shuffled second epoch.
    """

    name = "litdata"
    package = "litdata"

    def write(self, folder: Path, images: Iterator[bytes]) -> None:
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(str(folder), chunk_size=CHUNK)
        for number, image in enumerate(images):
            writer[number] = {"image": image}
        writer.done()
        writer.merge()

    def open(self, url: str, cache: Path, state: Any = None) -> Session:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming import downloader

        _set_credentials()
        logging.getLogger("litdata").setLevel(logging.ERROR)
        if hasattr(downloader, "_OBSTORE_CLIENT_OPTIONS"):
            # It has no option for a server without TLS.
            downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
        server, _, name = url.rpartition("/")
        dataset = StreamingDataset(
            f"s3://{BUCKET}/{name}",
            cache_dir=str(cache),
            shuffle=True,
            storage_options={"endpoint_url": server.removesuffix(f"/{BUCKET}")},
            transform=_decode_member,
            batch_decode=False,
            # The state is for another cache.
            force_override_state_dict=True,
        )
        loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS)
        if state is not None:
            loader.load_state_dict(state)
        return Session(lambda: iter(loader), loader.state_dict)


class MosaicStreaming:
    """MosaicML streaming reads shards of 64 MiB, shuffles blocks of them, and keeps them."""

    name = "MosaicML streaming"
    package = "streaming"

    def write(self, folder: Path, images: Iterator[bytes]) -> None:
        from streaming import MDSWriter

        with MDSWriter(out=str(folder), columns={"image": "bytes"}) as writer:
            for image in images:
                writer.write({"image": image})

    def open(self, url: str, cache: Path, state: Any = None) -> Session:
        from streaming import StreamingDataLoader, StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        class Decoded(StreamingDataset):
            def __getitem__(self, at: int) -> Any:
                return _decode_member(super().__getitem__(at))

        _set_credentials()
        server, _, name = url.rpartition("/")
        os.environ["S3_ENDPOINT_URL"] = server.removesuffix(f"/{BUCKET}")
        clean_stale_shared_memory()
        dataset = Decoded(
            remote=f"s3://{BUCKET}/{name}", local=str(cache), shuffle=True, batch_size=BATCH
        )
        for stream in dataset.streams:
            # Else the workers share a connection of this process, and get each other's bytes.
            stream._downloader.clean_up()
        loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=WORKERS)
        if state is not None:
            loader.load_state_dict(state)
        return Session(lambda: iter(loader), loader.state_dict)


def _decode_member(sample: dict[str, Any]) -> np.ndarray:
    return _decode(sample["image"])


def _set_credentials() -> None:
    """Set any credentials: boto3 wants some, and the server does not look at them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "none")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
