"""Runs one writer again and again in forked children, each with a fault, and checks what is left.

``python driver.py WRITER FOLDER SHIM COUNT`` ends by printing a JSON object: how many
runs there were, and a list of findings. All modules are imported once, before the runs with faults.
"""

import contextlib
import ctypes
import errno
import faulthandler
import importlib
import json
import logging
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings

import numpy as np
from PIL import Image

import imagearchive
from imagearchive.archive.convert import convert
from imagearchive.archive.extract import extract
from imagearchive.archive.pack import pack
from imagearchive.archive.shard_writer import ShardWriter
from imagearchive.archive.writers import TarWriter, ZipWriter
from imagearchive.cli import main
from imagearchive.containers.bins.writer import write_split_data
from imagearchive.containers.npz.writer import NpzWriter
from imagearchive.index.table import IndexTable
from imagearchive.processing.processor import DataProcessor
from imagearchive.processing.repack import repack

FILES = {f"{folder}/{i}": bytes([65 + i]) * (700 * i) for folder in "ab" for i in range(3)}
#: What a run may end in, besides success.
# ImportError, where memory ends while a module is loaded.
EXPECTED = (OSError, MemoryError, ImportError, imagearchive.errors.ImageArchiveError)
#: Seconds after which a run hangs; the longest takes less than one.
PATIENCE = 60
#: What writers leave on purpose, so that the next run goes on where they stopped.
CONTINUED = {
    "extract": re.compile(r"[^/]*\.part(/|$)"),
    "process": re.compile(r"out/\.processing_landmarker\."),
    "repack": re.compile(r"\.out-00\.tar\.(repack|lock)$"),
}
#: Files whose bytes differ from run to run.
VARIABLE = (".idx.npy", ".json")


def prepare(folder):
    """Make the inputs of all writers."""
    os.makedirs(f"{folder}/raw/landmarker")
    for name, data in FILES.items():
        os.makedirs(os.path.dirname(f"{folder}/files/{name}"), exist_ok=True)
        with open(f"{folder}/files/{name}", "wb") as file:
            file.write(data)
    pack(f"{folder}/files", f"{folder}/in.tar", mtime=5)
    os.makedirs(f"{folder}/images")
    for i in range(2):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(f"{folder}/images/{i}.png")
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(f"{folder}/raw/landmarker/{i}.png")
        with open(f"{folder}/raw/landmarker/{i}.pts", "w") as file:
            file.write("version: 1\nn_points: 2\n{\n1 2\n3 4\n}\n")


def _convert(target):
    with imagearchive.open("../in.tar") as archive:
        convert(archive, target, overwrite=True)


def _extract(**options):
    with imagearchive.open("../in.tar") as archive:
        extract(archive, "out", threads=1, **options)


def _extract_new():
    if not os.path.exists("out"):
        _extract()


def _extract_existing():
    os.makedirs("out", exist_ok=True)
    _extract(existing="replace")


def _npz():
    with NpzWriter("out.npz") as writer:
        for i in range(4):
            writer.append(a=np.full(50, i), b=[i] * i, c=str(i))


def _tar():
    with TarWriter("out.tar", overwrite=True) as tar:
        for name, data in FILES.items():
            tar.add(name, data)


def _zip():
    with ZipWriter("out.zip", overwrite=True) as packed:
        for name, data in FILES.items():
            packed.add(name, data)


def _sharded():
    with ShardWriter("out-{:02d}.tar", shard_samples=2, overwrite=True) as writer:
        for i in range(5):
            writer.write({"__key__": str(i), "txt": f"text {i}", "npy": np.full(50, i)})


def _repack():
    if not os.path.exists("out-00.tar") or os.path.exists(".out-00.tar.repack"):
        repack("../images", "out-{:02d}.tar", resize=4, shard_samples=1, workers=1)


def _repack_npz():
    repack("../images", "out.npz", resize=4, workers=1, overwrite=True)


def _index():
    IndexTable.open("../in.tar", "out.idx.npy", overwrite=True)


#: Each is a function, and the command line that does the same, if there is one.
WRITERS = {
    "pack": (
        lambda: pack("../files", "out.tar", overwrite=True),
        ["pack", "-q", "../files", "out.tar", "--overwrite"],
    ),
    "shards": (
        lambda: pack("../files", "out.tar", shards=2, overwrite=True),
        ["pack", "-q", "../files", "out.tar", "--overwrite", "--shards", "2"],
    ),
    "convert-zip": (
        lambda: _convert("out.zip"),
        ["convert", "-q", "../in.tar", "out.zip", "--overwrite"],
    ),
    "convert-bins": (
        lambda: _convert("out/"),
        ["convert", "-q", "../in.tar", "out/", "--overwrite"],
    ),
    "extract": (_extract_new, ["extract", "-q", "../in.tar", "out", "--overwrite"]),
    "extract-existing": (_extract_existing, None),
    "index": (_index, ["index", "../in.tar", "--ipath", "out.idx.npy", "--overwrite"]),
    "process": (
        lambda: DataProcessor("../raw", "out", 2, 0, progress=False).process_landmarker(0.5),
        [
            "process",
            "-q",
            "--raw-dir",
            "../raw",
            "--output-dir",
            "out",
            "--landmarker",
            "--workers",
            "0",
            "--batch-size",
            "2",
            "--train-split",
            "0.5",
        ],
    ),
    "repack": (
        _repack,
        [
            "repack",
            "-q",
            "../images",
            "out-{:02d}.tar",
            "--resize",
            "4",
            "--shard-samples",
            "1",
            "--workers",
            "1",
        ],
    ),
    "repack-npz": (_repack_npz, None),
    "shard-writer": (_sharded, None),
    "npz": (_npz, None),
    "tar": (_tar, None),
    "zip": (_zip, None),
    "bins": (lambda: write_split_data("out", FILES.values(), 3, start_clean=True), None),
}


def run_tool(arguments):
    """Run a command as a process of its own would."""
    status = main(arguments)
    if status not in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise OSError(f"{arguments}: status {status}")


def tree(folder):
    """Return all files below a folder and their content; directories end in a slash."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in folders:
            found[os.path.relpath(os.path.join(base, name), folder) + "/"] = b""
        for name in files:
            path = os.path.join(base, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def is_debris(name):
    """Whether a path is, or is in, a temporary file or directory."""
    return any(part.startswith(".") or part.endswith(".part") for part in name.split("/") if part)


class Faults:
    """Runs of one writer with faults."""

    def __init__(self, writer, folder, shim, count):
        self.function, self.arguments = WRITERS[writer]
        self.writer = writer
        self.shim = shim
        self.count = count
        self.runs = 0
        self.findings = []
        # Appending, so that the position does not matter after the file was truncated.
        self.stacks = open(os.path.join(folder, "stacks"), "a+")  # noqa: SIM115
        self.folder = os.path.join(folder, "work")
        prepare(folder)
        self.clear()
        _, report = self.fork("the first run", self.function)
        for name in report["modules"]:
            # Some that Cython makes cannot be imported.
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        # A thread that waits for the lock of `logging`, which an interrupt may leave locked, would
        # hang. Loggers take it only when they are first asked.
        for logger in logging.root.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                    logger.isEnabledFor(level)
        self.expected = tree(self.folder)
        start = time.monotonic()
        self.fork("the second run", self.function)
        self.duration = time.monotonic() - start

    def clear(self):
        """Start with an empty folder, and without cached indexes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
        os.mkdir(self.folder)

    def fork(self, what, function, fault=None, meanwhile=None, patience=PATIENCE):
        """Run a function in a child; return its wait status and what it reported.

        A child that takes more than `patience` seconds is killed. What its threads were doing is
        ``report["hung"]``.
        """
        self.runs += 1
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            try:
                self.run_child(writer, function, fault)
            finally:
                # A signal may come at the very end.
                os._exit(2)
        os.close(writer)
        if meanwhile is not None:
            meanwhile(pid)
        data, hung = b"", None
        end = time.monotonic() + patience
        while select.select([reader], [], [], max(0, end - time.monotonic()))[0]:
            part = os.read(reader, 1 << 16)
            if not part:
                break
            data += part
        else:
            hung = self.kill(pid)
        os.close(reader)
        _, status = os.waitpid(pid, 0)
        report = json.loads(data) if data else {}
        if hung is not None:
            report["hung"] = hung
            if patience == PATIENCE:
                self.findings.append(f"{what}: hung; {hung}")
        return os.waitstatus_to_exitcode(status), report

    def run_child(self, writer, function, fault):
        """Run a function, write a report to a pipe, and end the process."""
        faulthandler.register(signal.SIGUSR1, self.stacks)
        report = {}
        modules = set(sys.modules)
        try:
            os.chdir(self.folder)
            if fault is not None:
                fault()
            function()
        except BaseException as error:
            self.shim.shim_disarm()
            for which in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
                resource.setrlimit(which, (resource.getrlimit(which)[1],) * 2)
            report = {
                "error": "".join(traceback.format_exception(error))[-1500:],
                "expected": isinstance(error, (*EXPECTED, KeyboardInterrupt)),
                "unnamed": isinstance(error, OSError)
                and error.errno is not None
                and not error.filename,
            }
        report["calls"] = self.shim.shim_disarm()
        report["modules"] = sorted(set(sys.modules) - modules)
        os.write(writer, json.dumps(report).encode())
        os._exit(1 if "error" in report else 0)

    def kill(self, pid):
        """Kill a child that hangs; return the stacks of its threads."""
        self.stacks.truncate(0)
        os.kill(pid, signal.SIGUSR1)
        time.sleep(1)
        os.kill(pid, signal.SIGKILL)
        self.stacks.seek(0)
        return self.stacks.read()

    def check(self, what, code, report):
        """Check what a run has left, then that the next run is right and sweeps."""
        if report.get("error") and not report["expected"]:
            self.findings.append(f"{what}: {report['error']}")
        if report.get("unnamed"):
            self.findings.append(f"{what}: the error names no file: {report['error']}")
        left = tree(self.folder)
        debris = sorted(filter(is_debris, left))
        if self.writer in CONTINUED:
            debris = [name for name in debris if not CONTINUED[self.writer].match(name)]
        if code >= 0 and debris:
            self.findings.append(f"{what}: left {debris}; {report.get('error')}")
        for name, data in left.items():
            if is_debris(name) or name.endswith(VARIABLE) or name == "cache/":
                continue
            if self.expected.get(name) != data:
                self.findings.append(f"{what}: {name} is neither whole nor missing")
        code, report = self.fork(f"{what}: the next run", self.function)
        after = tree(self.folder)
        if self.writer == "repack":
            # All shards were complete, so it was not called again, which would remove the lock.
            after.pop(".out-00.tar.lock", None)
        if any(tree(os.environ["XDG_CACHE_HOME"]).values()):
            # An index that cannot be saved beside its archive is kept in the cache.
            after = {**{n: b"" for n in self.expected if n.endswith(".idx.npy")}, **after}
        if code or {*after} != {*self.expected}:
            more, less = {*after} - {*self.expected}, {*self.expected} - {*after}
            self.findings.append(
                f"{what}: the next run ends with {code}, {sorted(more)} too many, {sorted(less)} "
                f"missing; {report.get('error')}"
            )
        elif any(
            after[name] != data
            for name, data in self.expected.items()
            if not name.endswith(VARIABLE)
        ):
            self.findings.append(f"{what}: the next run writes other bytes")

    def fail_each_call(self, error):
        """Let each of the system calls of a run fail with an error, or kill it with 0."""
        for n in range(1, 1000):
            self.clear()
            what = f"{errno.errorcode[error] if error else 'SIGKILL'} at call {n}"
            code, report = self.fork(what, self.function, lambda n=n: self.shim.shim_arm(n, error))
            self.check(what, code, report)
            if code >= 0 and report.get("calls", n) < n:
                return
        raise RuntimeError("no run came to its end")

    def limit(self, which, sizes, name):
        """Run with a resource limit."""
        for size in sizes:
            self.clear()
            hard = resource.getrlimit(which)[1]
            code, report = self.fork(
                f"{name}={size}",
                self.function,
                lambda size=size, hard=hard: resource.setrlimit(which, (size, hard)),
                # CPython's Thread.start waits forever for a thread that finds no memory when it
                # begins. The process can only be killed then.
                patience=max(4, 10 * self.duration) if which == resource.RLIMIT_AS else PATIENCE,
            )
            if which == resource.RLIMIT_AS and "in start" not in report.get("hung", "in start"):
                self.findings.append(f"{name}={size}: hung; {report['hung']}")
            self.check(f"{name}={size}", code, report)

    def signal_at_random(self, signum):
        """Send a signal at random moments of a run."""
        rng = random.Random(signum)
        function = self.function
        if self.arguments is not None and signum != signal.SIGKILL:
            function = lambda: run_tool(self.arguments)  # noqa: E731
        for number in range(self.count):
            self.clear()
            wait = rng.uniform(0, 1.5 * self.duration)

            def send(pid, wait=wait):
                time.sleep(wait)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)

            what = f"{signal.Signals(signum).name} {number} after {wait:.4f} s"
            code, report = self.fork(what, function, meanwhile=send)
            self.check(what, code, report)


def address_space():
    """Return the address space in use, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def run(writer, folder, shim_path, count):
    """Run everything for one writer."""
    os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "caches")
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faults = Faults(writer, folder, ctypes.CDLL(shim_path), count)
    parts = {}

    def timed(name, function, *arguments):
        before, start = faults.runs, time.monotonic()
        function(*arguments)
        parts[name] = (faults.runs - before, round(time.monotonic() - start, 2))

    timed("ENOSPC", faults.fail_each_call, errno.ENOSPC)
    timed("SIGKILL at calls", faults.fail_each_call, 0)
    used = len(os.listdir("/proc/self/fd"))
    timed("RLIMIT_NOFILE", faults.limit, resource.RLIMIT_NOFILE, range(used, used + 9), "files")
    timed("RLIMIT_FSIZE", faults.limit, resource.RLIMIT_FSIZE, (0, 100, 1000, 4000, 9000), "size")
    space = address_space()
    sizes = [space + (1 << power) for power in range(16, 27, 2)]
    timed("RLIMIT_AS", faults.limit, resource.RLIMIT_AS, sizes, "memory")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        timed(number.name, faults.signal_at_random, number)
    return {"runs": faults.runs, "parts": parts, "findings": faults.findings}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
