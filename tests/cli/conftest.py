"""A directory to work in, and a function that runs a command in this process."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from imagearchive import TarWriter
from imagearchive.cli import main

# Advice for Python programs: parameter=value, method(), the address of an object.
PYTHON_ADVICE = re.compile(r"\b[a-z_]+=(?!'?[*{]|\w+ )|\w\(\)|\bat 0x")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The working directory, with the files that the documented examples use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("photos/cat", "photos/dog", "raw/detector/train"):
        os.makedirs(folder)
    Path("photos/cat/1.txt").write_text("a cat\n")
    Path("photos/cat/big.bin").write_bytes(bytes(3072))
    Path("photos/dog/2.txt").write_text("a dog\n")
    images = []
    for number in (0, 1):
        Image.new("RGB", (32, 24), (9 * number, 0, 0)).save(f"raw/detector/train/{number}.jpg")
        images.append(f"{number}.jpg,32,24,x,1,2,10,12")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    Path("raw/detector/train/_annotations.csv").write_text("\n".join([header, *images, ""]))
    return tmp_path


@pytest.fixture
def archive(work):
    """A TAR of three members in the working directory."""
    with TarWriter("a.tar", mtime=1_600_000_000) as tar:
        tar.add("cat/1.jpg", b"1" * 5000)
        tar.add("cat/2.txt", b"2", mode=0o755)
        tar.add("dog.txt", b"dog")
    return "a.tar"


@pytest.fixture
def run(capfdbinary):
    """Run a command; return its status, output, and error output, which is for people."""

    def run(*arguments):
        status = main([os.fspath(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        assert not PYTHON_ADVICE.search(err.decode())
        return status, out, err.decode()

    return run
