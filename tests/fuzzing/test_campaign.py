"""The fuzzer finds what it should, and its harnesses accept their own seeds."""

import os
import struct
import subprocess
import sys
import time
from random import Random

import pytest
from support.archives import zip_bytes
from support.paths import ROOT

sys.path.insert(0, str(ROOT))
from fuzz.catalog import HARNESSES
from fuzz.harness import Harness, check, execute
from fuzz.harnesses.zip import Zip
from fuzz.worker import Worker, read_current_input
from imagearchive.errors import CorruptArchiveError


class Toy(Harness):
    name = "toy"
    max_size = 100

    def seeds(self):
        return [b"a valid input"]

    def run(self, data):
        if not data:
            raise CorruptArchiveError("empty")
        if b"!" in data:
            raise ValueError("a foreign exception")
        check(data[:1] != b"?", "the oracle differs")
        return len(data) // 10


@pytest.fixture
def memory_scheme():
    from support.memory_location import FILES, OPENED, SCHEME, MemoryLocation

    from imagearchive.storage.location import register_scheme, unregister_scheme

    register_scheme(SCHEME, MemoryLocation)
    yield
    unregister_scheme(SCHEME)
    FILES.clear()
    OPENED.clear()


@pytest.mark.filterwarnings("ignore:memory.*the index cannot be saved")
@pytest.mark.parametrize("kind", HARNESSES, ids=lambda kind: kind.name)
def test_harness_seeds_and_first_mutations_are_no_findings(kind, memory_scheme, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    harness = kind()
    seeds = list(harness.seeds())
    rng = Random(0)
    assert seeds
    for data in seeds:
        outcome, finding = execute(harness, data)
        assert finding is None, finding.report
        assert outcome is not None
    for _ in range(50):
        data = harness.mutate(rng, rng.choice(seeds), rng.choice(seeds))[: harness.max_size]
        _, finding = execute(harness, data)
        assert finding is None, finding.report


PRINT_INPUTS = """
import hashlib, os, sys, time
from pathlib import Path
folder, later = Path(sys.argv[1]), float(sys.argv[2])
time_, local = time.time, time.localtime
time.time = lambda: time_() + later
time.localtime = lambda seconds=None: local(time_() + later if seconds is None else seconds)
from fuzz.catalog import all_harnesses
from fuzz.environment import prepare_process
from fuzz.worker import Worker
prepare_process()
for name, harness in all_harnesses().items():
    Worker(harness, 0, folder / name).work(500, float("inf"))
    seeds = [hashlib.sha256(data).hexdigest() for data in harness.seeds()]
    print(name, *seeds, *sorted(os.listdir(folder / name / "corpus")))
"""


def test_harness_seeds_and_inputs_are_the_same_at_another_time(tmp_path):
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    printed = [
        subprocess.run(
            [sys.executable, "-c", PRINT_INPUTS, tmp_path / later, later], env=environment,
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for later in ("0", "1e7")
    ]  # fmt: skip
    assert len(printed[0]) == len(HARNESSES)
    assert printed[0] == printed[1]


def test_zip_in_the_comment_of_another_is_no_finding():
    # A harness compares only some inputs.
    for number in range(32):
        inner = zip_bytes({"a": f"inner {number}".encode()})
        data = zip_bytes({"a": b"outer"})[:-2] + struct.pack("<H", len(inner)) + inner
        assert Zip().run(data)


@pytest.mark.parametrize(
    ("data", "signature"), [(b"x!", "ValueError"), (b"?", "DifferenceError"), (b"", None)]
)
def test_execute_foreign_exceptions_and_differences_are_findings(data, signature):
    outcome, finding = execute(Toy(), data)
    if signature is None:
        assert finding is None
        assert outcome[0] == "CorruptArchiveError"
    else:
        assert finding.signature.startswith(signature)


def test_execute_exception_in_a_destructor_is_a_finding(monkeypatch):
    from fuzz.harness import record_unraisable

    class Broken:
        def __del__(self):
            raise RuntimeError("late")

    class Late(Toy):
        def run(self, data):
            Broken()

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    record_unraisable()
    assert execute(Late(), b"")[1].signature == "unraisable RuntimeError"


def test_execute_too_much_cpu_or_memory_is_a_finding():
    class Slow(Toy):
        max_seconds = 0.05

        def run(self, data):
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass

    class Large(Toy):
        max_memory = 1 << 20

        def run(self, data):
            # More than any test before this one had.
            size = 1 << 20
            kept = []
            start = _peak()
            while _peak() - start < 8 << 20:
                kept.append(b"\1" * size)

    assert execute(Slow(), b"")[1].signature == "slow"
    assert execute(Large(), b"")[1].signature == "memory"


def _peak():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_worker_saves_and_shortens_a_finding(tmp_path):
    worker = Worker(Toy(), 1, tmp_path)
    worker.work(4000, float("inf"))
    assert worker.runs >= 4000
    assert set(worker.findings) >= {"DifferenceError the oracle differs"}
    saved = [path for path in (tmp_path / "findings").iterdir() if not path.suffix]
    assert {path.read_bytes() for path in saved} >= {b"?"}
    assert read_current_input(tmp_path / "current")[0] == worker.runs - 1


def test_worker_same_seed_gives_the_same_inputs(tmp_path):
    inputs = []
    for number in range(2):

        class Recorder(Toy):
            def run(self, data, seen=[]):  # noqa: B006
                seen.append(data)
                return super().run(data.replace(b"!", b"").replace(b"?", b""))

        recorder = Recorder()
        Worker(recorder, 5, tmp_path / str(number)).work(200, float("inf"))
        inputs.append(Recorder.run.__defaults__[0])
    assert inputs[0] == inputs[1]


def test_campaign_runs_a_harness_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "fuzz.campaign", "npy", "--runs", "300", "--seed", "1"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "npy" in done.stdout
    assert (tmp_path / "npy" / "statistics.json").exists()
    rerun = subprocess.run(
        [sys.executable, "-m", "fuzz.run", "npy", str(tmp_path / "npy" / "current")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rerun.returncode == 0
    assert "CorruptArchiveError" in rerun.stdout
