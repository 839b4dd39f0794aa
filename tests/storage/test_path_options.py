"""Paths that carry options: equal to their text, and without credentials where they are shown."""

import multiprocessing
import pickle
import subprocess
import sys

import pytest

from imagearchive.errors import OptionTypeError
from imagearchive.storage.path_options import (
    PathWithOptions,
    add_options,
    options_of,
    seal,
    server_of,
    unseal,
    with_text_of,
)

OPTIONS = {"region": "eu-central-1", "secret_access_key": "hidden-value"}


def test_path_with_options_is_its_text():
    path = add_options("s3://bucket/a.tar", OPTIONS)
    assert path == "s3://bucket/a.tar"
    assert {path: 1}["s3://bucket/a.tar"] == 1
    assert type(str(path)) is str
    assert options_of(path).values == OPTIONS
    assert options_of("s3://bucket/a.tar").values == {}


def test_path_with_options_lends_them_to_another_text():
    path = add_options("s3://bucket/{0..1}.tar", OPTIONS)
    assert options_of(with_text_of(path, "s3://bucket/0.tar")).values == OPTIONS
    assert type(with_text_of("plain", "other")) is str


def test_add_options_without_options_returns_the_path_itself():
    path = ["a.tar"]
    assert add_options(path) is path


def test_add_options_of_a_list_gives_each_path_options():
    assert all(options_of(one).values for one in add_options(["s3://b/0", "s3://b/1"], OPTIONS))


@pytest.mark.parametrize("wrong", ["region=x", [("region", "x")], {1: "x"}, 7])
def test_add_options_that_are_no_dict_is_an_error(wrong):
    with pytest.raises(OptionTypeError, match="storage_options must be a dict"):
        add_options("s3://bucket/a.tar", wrong)


def test_add_options_error_shows_no_value():
    with pytest.raises(OptionTypeError) as caught:
        add_options("s3://bucket/a.tar", "hidden-value")
    assert "hidden" not in str(caught.value)


def test_add_options_filesystem_without_the_interface_is_an_error():
    with pytest.raises(OptionTypeError, match="interface of fsspec"):
        add_options("s3://bucket/a.tar", None, object())


def test_options_show_no_value():
    path = add_options("s3://bucket/a.tar", OPTIONS)
    assert "hidden" not in repr(path) + repr(options_of(path)) + f"{path}" + f"{path!r}"


def test_options_pickled_hide_credentials_and_keep_the_rest():
    data = pickle.dumps(add_options("s3://bucket/a.tar", OPTIONS))
    assert b"hidden" not in data
    assert b"secret" not in data
    assert b"eu-central-1" in data
    restored = pickle.loads(data)
    assert isinstance(restored, PathWithOptions)
    assert options_of(restored).values == OPTIONS


def _values(path):
    return options_of(path).values


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_options_reach_a_process_that_this_program_starts(method):
    path = add_options("s3://bucket/a.tar", OPTIONS)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_values, (path,)) == OPTIONS


def test_options_do_not_reach_another_program(tmp_path):
    (tmp_path / "path").write_bytes(pickle.dumps(add_options("s3://bucket/a.tar", OPTIONS)))
    code = (
        "import pickle, sys; path = pickle.load(open(sys.argv[1], 'rb')); "
        "print(sorted(path.options.values), path.options.lost)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "path")], capture_output=True, text=True
    )
    assert done.stdout == "['region'] True\n", done.stderr


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000])
def test_seal_is_undone_by_unseal(size):
    data = bytes(range(256)) * 4
    assert unseal(seal(data[:size])) == data[:size]


def test_unseal_of_changed_bytes_is_refused():
    sealed = bytearray(seal(b"some bytes"))
    for at in range(len(sealed)):
        changed = bytes(sealed[:at]) + bytes([sealed[at] ^ 1]) + bytes(sealed[at + 1 :])
        assert unseal(changed) is None
    assert unseal(b"") is None


def test_seal_of_equal_bytes_differs():
    assert seal(b"some bytes") != seal(b"some bytes")


def test_server_of_options_depends_on_the_server_only():
    def server(**values):
        return server_of(options_of(add_options("s3://data/x.tar", values)))

    assert server(endpoint="http://a") != server(endpoint="http://b")
    assert server(aws_endpoint_url="http://a") != server()
    assert server(account_name="a") != server(account_name="b")
    assert server(endpoint="http://a", access_key_id="x") == server(endpoint="http://a")
    assert server(region="x", retry_config={"max_retries": 3}) == server()
