"""The handler of SIGBUS: faults that are not ours, and many at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from support.archives_of_images import COUNT, IMAGES, tar
from support.changed_files import in_child

import imagearchive
from imagearchive.errors import StaleIndexError

FOREIGN = """
import faulthandler, mmap, os, signal, sys, time
order, path = sys.argv[1:]
if order == "before":
    faulthandler.enable()
import imagearchive
archive = imagearchive.open(path, storage="mmap")
names = list(archive)
archive[names[0]]
if order == "after":
    faulthandler.enable()
if order != "none":
    time.sleep(0.02)
    archive[names[0]]
with open(path + ".other", "w+b") as file:
    file.truncate(1 << 16)
    mapped = mmap.mmap(file.fileno(), 1 << 16)
    file.truncate(0)
if order == "kill":
    os.kill(os.getpid(), signal.SIGBUS)
mapped[5000]
print("still alive")
"""


@pytest.mark.parametrize("order", ["none", "before", "after", "kill"])
def test_handler_faults_of_others_end_the_process_as_before(order, tmp_path):
    path = tar(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, order, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )
    assert done.returncode == -signal.SIGBUS, done
    assert not done.stdout
    if order in ("before", "after"):
        assert "Fatal Python error: Bus error" in done.stderr


def use_in_many_threads(path):
    archive = imagearchive.open(path, storage="mmap")
    names = list(archive)
    archive[names[0]]
    views = [archive.read(name) for name in names]
    os.truncate(path, 0)
    errors = []

    def work(number):
        # Views of the user: no error, but zeros.
        assert not any(bytes(views[number]))
        try:
            archive[names[number]]
        except StaleIndexError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(StaleIndexError):
        archive.check_unchanged()
    archive.close()
    views.clear()
    # Other archives are not concerned.
    (path.parent / "new").mkdir()
    other = imagearchive.open(tar(path.parent / "new"), storage="mmap")
    assert {name: other[name] for name in other} == IMAGES
    return len(errors)


def test_handler_faults_in_many_threads_all_end_in_errors(tmp_path):
    assert in_child(use_in_many_threads, tar(tmp_path)) == COUNT
