"""Fixtures for the tests of archives."""

import functools

import pytest
from support.containers import CONTAINERS, OPTIONS, make_directory

import imagearchive


@pytest.fixture(scope="module", params=list(CONTAINERS))
def open_container(request, tmp_path_factory):
    """A function that opens an archive with the members of `support.containers`."""
    path = CONTAINERS[request.param](tmp_path_factory.mktemp("container"))
    return functools.partial(imagearchive.open, path, **OPTIONS.get(request.param, {}))


@pytest.fixture(params=["mmap", "pread", "memory"])
def archive(request, open_container):
    with open_container(storage=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    return str(make_directory(tmp_path_factory.mktemp("extracted")))
