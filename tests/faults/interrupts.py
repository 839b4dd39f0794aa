"""Interrupts a function at every point where Python looks for signals, in forked children.

``python interrupts.py CASE FOLDER SHIM`` ends by printing a JSON object: how many events there
were, and a list of findings. The function may succeed or raise `KeyboardInterrupt`. It must not
hang, and none of its threads and processes may be at work after it.
"""

import ctypes
import faulthandler
import glob
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np

from imagearchive.archive.threads import run_in_threads
from imagearchive.index.file_format import IndexDraft
from imagearchive.loader.bad_samples import BadSampleLog
from imagearchive.loader.batch_iterator import BatchIterator
from imagearchive.loader.batches import Batch
from imagearchive.loader.epoch_counter import EpochCounter
from imagearchive.loader.generator_process import MpQItr
from imagearchive.loader.thread_pool import Pool
from imagearchive.processing.background_writer import BackgroundWriter
from imagearchive.storage.disk_sync import sync_files
from imagearchive.storage.fork_lock import ForkSafeLock
from imagearchive.storage.location import locate
from imagearchive.storage.path_options import BlockCacheOptions
from imagearchive.storage.process_pool import WorkerPool
from imagearchive.storage.remote.block_cache import open_blocks
from imagearchive.storage.remote.block_file import BLOCK
from imagearchive.storage.remote.prefetcher import Owner, Prefetcher
from imagearchive.storage.span_cache import SpanCache
from imagearchive.storage.task_threads import TaskThreads
from imagearchive.storage.temporary import LockedDirectory

#: Of an index.
SECTIONS = {"entries": np.zeros(100_000, np.uint64)}

#: Seconds after which a run hangs.
PATIENCE = 20

at_work = []


def _work(seconds=0.0005):
    at_work.append(1)
    time.sleep(seconds)
    at_work.pop()


def _python(begin):
    lock = threading.Lock()
    begin()
    try:
        with lock:
            pass
    finally:
        assert not lock.locked()


def _tasks(begin):
    begin()
    with TaskThreads(2) as threads:
        for task in [threads.submit(_work) for _ in range(4)]:
            task.result()


def _chunks(begin):
    begin()

    def work(chunks):
        for _ in chunks:
            _work()

    run_in_threads(work, 4, 1, 2)


def _sync(begin):
    begin()
    for name in "abc":
        with open(name, "wb") as file:
            file.write(b"data")
    sync_files("abc")


def _draft(begin):
    location = locate("draft.idx.npy")
    begin()
    with IndexDraft(location) as draft:
        draft.begin(SECTIONS)
        draft.save(SECTIONS, {})


def _background(begin):
    begin()
    with BackgroundWriter("out.npz", compress=False, ragged=()) as writer:
        for _ in range(3):
            writer.put([])


class _OneSample:
    """A job of a pool: a batch of one sample."""

    parts = 1

    def run(self, _part, _tools):
        _work()

    def finish(self):
        return Batch(1, [], [])


def _batches(begin):
    def start(_):
        return Pool(2, 2, iter([_OneSample(), _OneSample(), None]).__next__, lambda: None)

    epochs = EpochCounter(lambda epoch, start: SimpleNamespace(epoch=epoch, start=start))
    batches = BatchIterator(epochs, start, BadSampleLog())
    begin()
    try:
        for _ in batches:
            pass
    finally:
        # Waits forever if the lock was left locked, or a thread still waits for work.
        next(batches, None)
        batches.close()


def _blocks(begin):
    folder = BlockCacheOptions(os.path.abspath("blocks"), 1 << 30)
    blocks = open_blocks(folder, "object", str(time.monotonic_ns()), 3 * BLOCK)
    content = bytes(3 * BLOCK)

    def fetch(offset, size):
        return blocks.fetch(offset, size, lambda at, size: memoryview(content)[at : at + size])

    begin()
    try:
        assert fetch(BLOCK - 5, 10) == bytes(10)
    finally:
        # Waits forever if the request is still under way; the folder is not locked any more.
        assert fetch(0, 3 * BLOCK) == content
        assert blocks.holds(0, 3 * BLOCK)


def _directory(begin):
    directory = LockedDirectory(".", "temporary-")
    names = "abc"
    for name in names:
        with open(directory.file(name), "wb"):
            pass
    os.mkdir(os.path.join(directory.path, "d"))
    begin()
    try:
        directory.close()
    finally:
        # It is gone, unless the interrupt comes before anything is removed.
        for left in glob.glob("temporary-*"):
            assert {*os.listdir(left)} > {*names}


def _generator(begin):
    begin()
    with MpQItr(range, 3, qsize=2, mp_context="fork") as items:
        for _ in items:
            pass


def _processes(begin):
    with WorkerPool(1) as pool:
        begin()
        for task in [pool.submit(abs, -1) for _ in range(3)]:
            task.result()


def _locks(begin):
    lock = ForkSafeLock()
    begin()
    try:
        for _ in range(3):
            with lock.of_process():
                pass
    finally:
        # Waits forever if it was left locked.
        with lock.of_process():
            pass


def _spans(begin):
    cache = SpanCache(10)
    ready, done = SimpleQueue(), SimpleQueue()

    def read():
        for number in range(4):
            cache.request(("a", number + 1), _decompress)
            assert cache.get(("a", number), _decompress) == b"data"

    def run():
        ready.put(True)
        read()
        done.put(True)

    # Not interrupted: it is the thread that waits for this one.
    threading.Thread(target=run, daemon=True).start()
    ready.get()
    begin()
    try:
        read()
    finally:
        done.get()
        read()


def _requests(begin):
    far, fetched = 5 << 20, SimpleQueue()
    prefetcher = Prefetcher(in_flight=1)
    owner, other = Owner(_fetch), Owner(lambda offset, size: fetched.put(_fetch(offset, size)))
    begin()
    try:
        # A thread makes the first request, and this one the second.
        prefetcher.announce(owner, [(0, 10), (20, 10), (far, 10), (far + 20, 10)])
        for offset in (far, 0):
            assert prefetcher.read(owner, offset, 10) in (None, bytes(10))
        assert prefetcher.read_part(owner, far + 20, 10) in (None, bytes(10))
    finally:
        for offset in (far + 20, 20):
            assert prefetcher.read(owner, offset, 10) in (None, bytes(10))
        prefetcher.forget(owner)
        assert prefetcher.used == 0
        prefetcher.announce(other, [(0, 10)])
        # Waits forever if requests that were given up count as under way.
        fetched.get()
        prefetcher.close()
        # All end, also one that was interrupted while it was started.
        for thread in threading.enumerate():
            if thread.name == "imagearchive-fetch" and thread.is_alive():
                thread.join(PATIENCE / 4)
                assert not thread.is_alive()


def _fetch(offset, size):
    time.sleep(0.0005)
    return memoryview(bytes(size))


def _decompress():
    time.sleep(0.0005)
    return b"data"


#: What is interrupted from its call of `begin` on, and at every how many events. What starts
#: processes takes long, and works in threads as the others do.
CASES = {
    "background": (_background, 1),
    "batches": (_batches, 3),
    "blocks": (_blocks, 5),
    "chunks": (_chunks, 1),
    "directory": (_directory, 1),
    "draft": (_draft, 5),
    "generator": (_generator, 5),
    "locks": (_locks, 1),
    "processes": (_processes, 13),
    "python": (_python, 1),
    "requests": (_requests, 3),
    "spans": (_spans, 1),
    "sync": (_sync, 1),
    "tasks": (_tasks, 1),
}


def _children_end():
    """Whether all child processes end soon."""
    deadline = time.monotonic() + PATIENCE / 4
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return True
    return False


def run_child(shim, function, n, stacks):
    """Run a function, interrupted at the n-th event; return what the parent is told."""
    faulthandler.register(signal.SIGUSR1, stacks)
    finding = ""
    try:
        function(lambda: shim.shim_interrupt(n))
    except KeyboardInterrupt:
        pass
    except BaseException:
        finding = traceback.format_exc()
    count = shim.shim_stop()
    if at_work:
        finding += f"{len(at_work)} threads are at work after the function"
    if glob.glob(".*.part"):
        finding += "a temporary file is left after the function"
    if not _children_end():
        finding += "a child process is at work after the function"
    return {"events": count, "finding": finding}


def run(function, shim, n, stacks):
    """Run a function in a child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, json.dumps(run_child(shim, function, n, stacks)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    hung = not select.select([reader], [], [], PATIENCE)[0]
    if hung:
        stacks.truncate(0)
        os.kill(pid, signal.SIGUSR1)
        time.sleep(1)
        os.kill(pid, signal.SIGKILL)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    if hung:
        stacks.seek(0)
        return {"events": n, "finding": f"hung; {stacks.read()}"}
    # Without an answer, the interrupt came after the function.
    return json.loads(data) if data else {"events": n, "finding": ""}


def main(case, folder, shim_path):
    """Interrupt one function at each event, until it ends before."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shim = ctypes.PyDLL(shim_path)
    shim.shim_interrupt.argtypes = [ctypes.c_long]
    shim.shim_stop.restype = ctypes.c_long
    os.chdir(folder)
    function, step = CASES[case]
    findings = []
    with open("stacks", "a+") as stacks:
        # The first run imports what is imported late.
        function(lambda: None)
        for n in range(1, 100_000, step):
            report = run(function, shim, n, stacks)
            if report["finding"]:
                findings.append(f"interrupt at event {n}: {report['finding'][-3000:]}")
            if report["events"] < n or len(findings) > 5:
                return {"events": n, "findings": findings}
    raise RuntimeError("no run came to its end")


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
