from typing_extensions import Buffer

def fill(
    folder: int,
    prefix: bytes,
    names: tuple[bytes, ...],
    start: int,
    template: bytes,
    keep_mtime: bool,
    largest: int,
    buffer: Buffer,
) -> tuple[int, int, bool]: ...
