"""Archives for the tests of the index."""

import pytest
from support.archives import write_tar
from support.index_files import MEMBERS


@pytest.fixture
def tar(tmp_path):
    return str(write_tar(tmp_path / "data.tar", MEMBERS))


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        write_tar(
            tmp_path / f"train-{number:04d}.tar",
            {f"{name}/{number}-{i}.txt": b"%d %d" % (number, i) for name in "ab" for i in range(4)},
        )
    return str(tmp_path / "train-{0000..0002}.tar")
