"""Runs a function in several threads at once."""

from concurrent.futures import ThreadPoolExecutor


def run_in_threads(function, count=4):
    """Call ``function(0)``, ``function(1)``, ... in threads; return their results or raise."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))
