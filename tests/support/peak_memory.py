"""How much memory a function takes."""

import multiprocessing
import resource


def peak_memory_of(function, *arguments):
    """Run a function in a forked child; return the bytes by which its memory grew at most."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_run, args=(queue, function, arguments))
    child.start()
    child.join()
    assert child.exitcode == 0, "the function failed; its error is on standard error"
    return queue.get()


def _run(queue, function, arguments):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function(*arguments)
    # Linux counts in units of 1024 bytes.
    queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
