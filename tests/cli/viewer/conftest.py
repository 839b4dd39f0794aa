"""An archive with members of all kinds, and a server of its page."""

import io
import json
from functools import partial

import numpy as np
import pytest
from support.archives import encoded
from support.viewer import (
    HOSTILE,
    ask_server,
    gradient,
    request,
    serving,
    serving_archive,
    write_members,
)

from imagearchive import Boxes, Image, Mask, SampleArchive
from imagearchive.cli.viewer.samples import FieldSamples


@pytest.fixture(scope="session")
def members():
    array = io.BytesIO()
    np.save(array, np.zeros((3, 4), np.float32))
    arrays = io.BytesIO()
    np.savez(arrays, x=np.arange(5), y=np.zeros((2, 2)))
    return {
        **{f"cats/{number:02d}.png": gradient(number) for number in range(12)},
        "cats/00.cls": b"7",
        "cats/00.txt": b"a grey cat",
        "dogs/big.png": gradient(3) + bytes(50_000),
        "dogs/broken.png": gradient(1)[:60],
        HOSTILE: gradient(5),
        "page.html": b"<script>document.title = 'executed'</script>",
        "drawing.svg": b"<svg onload='alert(1)' xmlns='http://www.w3.org/2000/svg'/>",
        "facts.json": json.dumps({"a": [1, 2]}).encode(),
        "array.npy": array.getvalue(),
        "arrays.npz": arrays.getvalue(),
        "data.bin": bytes(range(256)) * 400,
        'quo"te\r\nSet-Cookie: x=1.bin': b"header",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("viewer") / "all.tar"
    with serving(write_members(path, members)) as server:
        yield server


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The server of samples whose fields are in directories of their own."""
    members = {}
    for number in range(3):
        mask = np.zeros((16, 24), np.uint8)
        mask[:8] = 1
        members |= {
            f"img/{number}.png": gradient(number),
            f"seg/{number}.png": encoded(mask),
            f"box/{number}.txt": b"2 1 20 12",
        }
    del members["seg/2.png"]
    members["box/1.txt"] = b"not a box"
    members["notes.txt"] = b"of no sample"
    path = write_members(tmp_path_factory.mktemp("pairs") / "pairs.tar", members)
    fields = {
        "image": Image("img/{key}.png"),
        "mask": Mask("seg/{key}.png"),
        "boxes": Boxes("box/{key}.txt"),
    }
    with SampleArchive(path, fields, missing="none") as dataset:
        archive = dataset.archives[0]
        with serving_archive(archive, FieldSamples(dataset)) as server:
            yield server


@pytest.fixture
def get(server):
    """Send a request as the page would."""
    return partial(request, server)


@pytest.fixture
def ask(server):
    """Send a request, and return the JSON that answers it."""
    return partial(ask_server, server)
