"""Runs a function in several threads at once."""

import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor


def run_in_threads(function, count=4):
    """Call ``function(0)``, ``function(1)``, ... in threads; return their results or raise."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


@contextlib.contextmanager
def frequent_switches():
    """Have Python switch between threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def collide(function, count=16):
    """Do the same as `run_in_threads`; all calls begin at the same time, with frequent switches."""
    barrier = threading.Barrier(count)

    def begin(number):
        barrier.wait()
        return function(number)

    with frequent_switches():
        return run_in_threads(begin, count)
