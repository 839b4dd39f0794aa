"""Fixtures for the tests of archives."""

import pytest
from support.containers import CONTAINERS, make_directory

import imagearchive


@pytest.fixture(scope="module", params=list(CONTAINERS))
def container(request, tmp_path_factory):
    return CONTAINERS[request.param](tmp_path_factory.mktemp("container"))


@pytest.fixture(params=["mmap", "pread", "memory"])
def archive(request, container):
    with imagearchive.open(container, storage=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    return str(make_directory(tmp_path_factory.mktemp("extracted")))
