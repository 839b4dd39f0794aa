"""Changes files while they are open, in a child that SIGBUS may end."""

import contextlib
import multiprocessing
import os

import numpy as np


def in_child(function, *arguments):
    """Call a function in a forked child, and return its result; the child must exit normally."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def work():
        theirs.send(function(*arguments))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    theirs.close()
    with contextlib.suppress(EOFError):
        result = ours.recv()
    child.join()
    assert child.exitcode == 0, f"the child ended with {child.exitcode}"
    return result


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 8)


def overwrite(path):
    """Write other bytes into the same file, as ``rsync --inplace`` and ``dd`` do."""
    noise = np.random.default_rng(1).bytes(os.path.getsize(path))
    with open(path, "r+b") as file:
        file.write(noise)


def replace(path):
    with open(f"{path}.new", "wb") as file:
        file.write(b"another file")
    os.replace(f"{path}.new", path)


def delete(path):
    os.remove(path)


def extend(path):
    with open(path, "ab") as file:
        file.write(b"\0" * 100_000)
