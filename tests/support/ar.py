"""A container format of the tests' own: Unix ``ar``, as static libraries and Debian packages are.

It shows what a new format takes: this module, one line where it is registered, and one line in
the matrix of `tests/support/containers.py`.
"""

from imagearchive.containers.container import Container, Match
from imagearchive.containers.rows import KIND_FILE, RowBuffer
from imagearchive.errors import CorruptArchiveError

MAGIC = b"!<arch>\n"
HEADER = 60
# Names of more than 16 bytes, as 4.4BSD writes them: in front of the data.
LONG = b"#1/"


class ArContainer(Container):
    """Unix ar with long names in the BSD way."""

    name = "ar"
    version = 1
    label = "ar"
    extensions = (".a", ".deb")

    def sniff(self, head, storage):
        return Match.CERTAIN if head.startswith(MAGIC) else Match.NO

    def scan(self, storage, strict=True):
        rows = RowBuffer()
        position = len(MAGIC)
        while position + HEADER <= storage.size:
            header = bytes(storage.read(position, HEADER))
            size, mtime, mode = int(header[48:58]), int(header[16:28]), int(header[40:48], 8)
            offset, name = position + HEADER, header[:16].rstrip().removesuffix(b"/")
            if header[58:] != b"`\n" or size < 0 or offset + size > storage.size:
                if not strict:
                    return rows
                raise CorruptArchiveError(
                    f"{storage.path}: the header at offset {position} is damaged; fetch the "
                    f"archive again"
                )
            end = offset + size
            if name.startswith(LONG):
                length = int(name[len(LONG) :])
                name = bytes(storage.read(offset, length)).rstrip(b"\0")
                offset += length
            rows.append(
                name,
                kind=KIND_FILE,
                offset=offset,
                size=end - offset,
                stored_size=end - offset,
                header_offset=position,
                mtime=mtime * 10**9,
                mode=mode & 0o7777,
            )
            position = end + end % 2
        return rows


def write_ar(path, members):
    """Write ``{name: bytes}``."""
    with open(path, "wb") as file:
        file.write(MAGIC)
        for name, data in members.items():
            encoded = name.encode()
            body = encoded + data
            short = LONG + b"%d" % len(encoded)
            file.write(b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (short, 0, 0, 0, 0o644, len(body)))
            file.write(body + b"\n" * (len(body) % 2))
    return path
