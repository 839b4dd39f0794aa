"""Write the golden files of the present format; those of older formats stay as they are."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np

from imagearchive import IndexTable

HERE = Path(__file__).parent


def main():
    with tarfile.open(HERE / "members.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in [
            ("dog/0.png", b"zero"),
            ("cat/1.png", b"one"),
            ("cat/\udcff.png", b"two"),
            ("n" * 120 + "/3.png", b"three"),
        ]:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_000_000_000
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "1.png"
        archive.addfile(link)
        empty = tarfile.TarInfo("empty")
        empty.type = tarfile.DIRTYPE
        archive.addfile(empty)
    os.utime(HERE / "members.tar", ns=(10**18, 10**18))
    IndexTable.build(HERE / "members.tar").save(str(HERE / "format-1.idx.npy"))
    with tarfile.open(HERE / "members.tar") as archive:
        files = [member for member in archive if member.isreg()]
        rows = [[i, m.offset_data, m.size, i % 2] for i, m in enumerate(files)]
    np.save(HERE / "original.npy", np.array(rows, np.float64))


if __name__ == "__main__":
    main()
