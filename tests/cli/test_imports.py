"""What commands import: only what they need, and NumPy not below other imports."""

import subprocess
import sys
import tarfile

import pytest

# Prints the modules that a command has imported, and the modules that were being imported when
# NumPy was.
PROBE = """
import sys

class Finder:
    below_numpy = None

    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            frame, below = sys._getframe(), []
            while frame is not None:
                if frame.f_code.co_name == "<module>" and frame.f_globals["__name__"] != "__main__":
                    below.append(frame.f_globals["__name__"])
                frame = frame.f_back
            Finder.below_numpy = below
        return None

sys.meta_path.insert(0, Finder())
from imagearchive.cli import main

assert main(sys.argv[1:]) == 0
print("\\n" + " ".join(sys.modules))
print(Finder.below_numpy)
"""

# Prints how often the garbage of a command is collected while it runs.
COLLECTIONS = """
import gc, sys

phases = []
gc.callbacks.append(lambda phase, _: phases.append(phase))
from imagearchive.__main__ import run

assert run() == 0
print(phases.count("start"))
"""

HEAVY = {
    "torch", "PIL", "tqdm", "multiprocessing", "imagearchive.codecs", "imagearchive.images",
    "imagearchive.transforms", "imagearchive.datasets", "imagearchive.loader",
    "imagearchive.processing", "imagearchive.containers.bins.scan",
    "imagearchive.containers.zip.scan", "imagearchive.containers.compressed_scan",
    "imagearchive.index.nested", "imagearchive.storage.deflate", "numpy.ma", "sqlite3",
}  # fmt: skip


def run_probe(folder, *arguments):
    """Return the modules that a command imports, and those that NumPy's import was nested in."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *_, modules, below = done.stdout.splitlines()
    return set(modules.split()), below


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "files" / "a.txt", "a.txt")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["ls a.tar", "tree a.tar", "find a.tar", "cat a.tar a.txt", "index a.tar",
     "extract a.tar out", "pack files b.tar"],
)  # fmt: skip
def test_command_imports_only_what_it_needs(folder, command):
    modules, _ = run_probe(folder, *command.split())
    assert "numpy" in modules
    assert not HEAVY & modules


def test_ls_imports_no_thread_pool(folder):
    assert "concurrent.futures" not in run_probe(folder, "ls", "a.tar")[0]


def test_version_imports_no_numpy(folder):
    assert "numpy" not in run_probe(folder, "--version")[0]


@pytest.mark.parametrize(
    "command",
    ["ls a.tar", "info a.tar", "index a.tar", "verify a.tar", "extract a.tar out",
     "convert a.tar b.zip"],
)  # fmt: skip
def test_command_imports_numpy_outside_other_imports(folder, command):
    assert run_probe(folder, *command.split())[1] == "[]"


def test_pack_module_imports_no_numpy():
    code = "import sys, imagearchive.archive.pack; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("command", ["ls a.tar", "extract a.tar out", "pack files b.tar"])
def test_run_collects_garbage_rarely(folder, command):
    done = subprocess.run(
        [sys.executable, "-c", COLLECTIONS, *command.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(done.stdout.splitlines()[-1]) < 20
