"""Tasks for executors; worker processes import them."""

import os
import signal
import time

from imagearchive.errors import CorruptArchiveError


def double(number):
    return 2 * number


def fail_for_three(number):
    if number == 3:
        raise CorruptArchiveError("three: it is damaged")
    return number


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(item):
    """Kill the process, but not if any did so before; return the second part of the item."""
    path, result = item
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return result
    return die(path)


def wait_for_file(path):
    path.with_suffix(".started").touch()
    while not path.exists():
        time.sleep(0.01)


def wait_for_interrupt(path):
    path.with_suffix(".started").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        path.with_suffix(".interrupted").touch()
        raise
