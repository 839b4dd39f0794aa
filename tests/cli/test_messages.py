"""What commands print to standard error, and what happens to streams that are closed or full."""

import errno
import fcntl
import io
import logging
import os
import pty
import re
import resource
import select
import struct
import subprocess
import sys
import tarfile
import termios
import textwrap
import warnings
from functools import partial
from pathlib import Path

from support.command_line import start_command

from imagearchive import TarWriter
from imagearchive.cli.messages import describe_error, print_warnings, with_options
from imagearchive.errors.hints import Hint


def test_mistakes_give_one_line_and_no_traceback(run, work):
    Path("text").write_text("this is no archive, just text " * 50)
    Path("cut.tar").write_bytes(b"")
    for command in (
        ["ls", "text"],
        ["ls", "missing.tar"],
        ["verify", "text"],
        ["cat", "text", "x"],
    ):
        status, out, err = run(*command)
        assert (status, out) == (1, b"")
        assert err.startswith("imagearchive: ")
        assert command[1] in err
        assert err.count("\n") == 1
    for command in (
        [],
        ["frobnicate"],
        ["ls"],
        ["cat", "x"],
        ["ls", "x", "--nope"],
        ["extract", "x"],
    ):
        status, out, err = run(*command)
        assert (status, out) == (2, b"")
        assert "usage: imagearchive" in err


def test_system_error_names_the_file(run, work, archive):
    Path("file").write_text("")
    status, _, err = run("extract", archive, "file/below")
    assert status == 1
    assert err == "imagearchive: file/below: Not a directory\n"


def test_dash_is_refused_as_a_file(run, archive):
    for command in (
        ["extract", archive, "-"],
        ["convert", archive, "-"],
        ["ls", "-"],
        ["index", archive, "-"],
    ):
        status, _, err = run(*command)
        assert status == 2
        assert "'-': " in err


def test_missing_target_directory_is_named(run, archive):
    for command in (["pack", "photos", "missing/p.tar"], ["convert", archive, "missing/p.tar"]):
        status, _, err = run(*command)
        assert status == 1
        assert err == "imagearchive: missing: no such directory to write 'p.tar' to\n"


def limit(what, value):
    resource.setrlimit(what, (value, value))


def test_resource_limits_are_reported_with_the_file(work, archive):
    with start_command(
        "pack", "photos", "p.tar", preexec_fn=partial(limit, resource.RLIMIT_FSIZE, 5)
    ) as one:
        assert one.communicate(timeout=30) == (b"", b"imagearchive: p.tar: File too large\n")
        assert one.returncode == 1
    # Two descriptors besides the standard ones: enough to open an archive, but not to write below a
    # directory at the same time.
    few = partial(limit, resource.RLIMIT_NOFILE, 5)
    with start_command("extract", archive, "out", preexec_fn=few) as one:
        _, err = one.communicate(timeout=30)
        assert one.returncode == 1
        assert re.search(rb"^imagearchive: .+: Too many open files\n$", err, re.MULTILINE)
    assert "p.tar" not in os.listdir(work)


def test_full_standard_output_is_reported(work, archive):
    for command in (["ls", archive], ["cat", archive, "dog.txt"], ["info", archive, "--json"]):
        with open("/dev/full", "wb") as full, start_command(*command, stdout=full) as process:
            _, err = process.communicate(timeout=30)
        assert err == b"imagearchive: standard output: No space left on device\n"
        assert process.returncode == 1


def test_closed_standard_streams_do_no_harm(work, archive):
    tool = [sys.executable, "-m", "imagearchive"]
    script = '"$@" {} ; echo $?'

    def shell(redirection, *command):
        return subprocess.run(
            ["bash", "-c", script.format(redirection), "bash", *tool, *command],
            capture_output=True,
            check=False,
            text=True,
        )

    done = shell(">&-", "ls", archive)
    assert (done.stdout, done.stderr) == (
        "1\n",
        "imagearchive: standard output: Bad file descriptor\n",
    )
    assert shell(">&-", "pack", "-q", "photos", "p.tar").stdout == "0\n"
    done = shell("<&-", "pack", "-", "q.tar")
    assert done.stdout == "1\n"
    assert done.stderr.startswith("imagearchive: standard input is closed")
    assert shell("2>&-", "ls", "nope").stdout == "1\n"
    # The archive that is written must not get the number of a closed stream.
    noisy = textwrap.dedent("""
        import os
        from imagearchive import cli
        from imagearchive.archive import pack
        real = pack.IndexedTarWriter.complete
        def finish(self):
            os.write(2, b"as a library in C complains")
            real(self)
        pack.IndexedTarWriter.complete = finish
        raise SystemExit(cli.main(["pack", "photos", "r.tar"]))
    """)
    tool = [sys.executable, "-c", noisy]
    assert shell("2>&-").stdout == "r.tar\n0\n"
    assert Path("p.tar").read_bytes() == Path("r.tar").read_bytes()


def test_print_warnings_takes_one_line_each(capsys):
    with print_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind\nthe gap", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "imagearchive: warning: mind\\nthe gap\n")


def test_print_warnings_prints_logged_ones_once(capsys):
    for _ in range(2):
        with print_warnings():
            for _ in range(2):
                logging.getLogger("imagearchive.any").warning("\x1b[31m%s", "red")
        assert capsys.readouterr() == ("", "imagearchive: warning: \\x1b[31mred\n")
    assert not logging.getLogger("imagearchive").handlers


def test_with_options_names_options_and_leaves_out_other_arguments():
    known, other = Hint("strict=False", "to read the rest"), Hint("append=True", "to add to it")
    assert with_options("damaged", [known]) == "damaged; use --partial to read the rest"
    assert with_options("damaged", [other, known]) == "damaged; use --partial to read the rest"
    assert with_options("damaged", [other]) == "damaged"
    assert with_options("damaged", []) == "damaged"


def test_describe_error_names_all_files():
    assert describe_error(OSError(errno.EIO, "I/O error")) == "I/O error"
    assert describe_error(OSError(errno.EIO, "I/O error", b"a")) == "a: I/O error"
    assert describe_error(OSError(errno.EXDEV, "no", "a", None, "b")) == "a -> b: no"
    assert describe_error(OSError("ours")) == "ours"


def test_closed_pipe_ends_the_command_silently(work):
    with TarWriter("many.tar") as tar:
        for number in range(20000):
            tar.add(f"some/long/directory/name/{number:08d}.jpg", b"")
    with start_command("find", "many.tar") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_pack_to_standard_output_gives_the_bytes_of_the_file(work):
    for options in ([], ["--shuffle", "--seed", "1"], ["--mtime", "keep"]):
        with start_command("pack", "photos", "-", *options) as process:
            out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, b"")
        with start_command("pack", "photos", "p.tar", "-f", *options) as process:
            process.communicate(timeout=30)
        assert out == Path("p.tar").read_bytes()
    with start_command("pack", "-", "-", "--root", "photos", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(b"cat/1.txt\n", timeout=30)
    assert (process.returncode, err) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(out)) as packed:
        assert packed.getnames() == ["cat/1.txt"]
    os.mkfifo("photos/fifo")
    with start_command("pack", "photos", "-") as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"fifo: cannot pack a FIFO" in err


def test_pack_to_standard_output_refuses_terminals_and_shards(work):
    main_end, side = pty.openpty()
    with start_command("pack", "photos", "-", stdout=side) as process:
        _, err = process.communicate(timeout=30)
    os.close(side)
    os.close(main_end)
    assert process.returncode == 2
    assert b"standard output is a terminal" in err
    for wrong in (["--shards", "2"], ["--shard-size", "1M"], ["--json"]):
        with start_command("pack", "photos", "-", *wrong) as process:
            assert process.communicate(timeout=30)[0] == b""
        assert process.returncode == 2


def test_pack_to_a_closed_pipe_ends_silently(work):
    Path("photos/large").write_bytes(bytes(8 << 20))
    with start_command("pack", "photos", "-") as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


def test_progress_bar_is_shown_only_on_a_terminal(work):
    os.makedirs("many")
    for number in range(600):
        Path(f"many/{number}").write_bytes(b"x")
    with start_command("pack", "many", "a.tar") as process:
        assert process.communicate(timeout=30) == (b"a.tar\n", b"")
    main_end, side = pty.openpty()
    # A terminal of no columns has no place for a bar.
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with start_command("pack", "many", "b.tar", stderr=side) as process:
        os.close(side)
        shown = b""
        while process.poll() is None or select.select([main_end], [], [], 0)[0]:
            if select.select([main_end], [], [], 0.05)[0]:
                try:
                    shown += os.read(main_end, 4096)
                except OSError:
                    break
        assert process.stdout.read() == b"b.tar\n"
    os.close(main_end)
    assert b"files" in shown
    with start_command("pack", "-q", "many", "c.tar") as process:
        assert process.communicate(timeout=30) == (b"", b"")
