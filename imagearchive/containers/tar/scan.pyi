import logging
from collections.abc import Callable
from typing import final

from typing_extensions import Buffer

from imagearchive.containers.rows import RowBuffer
from imagearchive.storage.protocol import Storage

logger: logging.Logger

@final
class Cursor:
    def __init__(self, file_size: int, offset: int = 0) -> None: ...
    @property
    def done(self) -> bool: ...
    @property
    def offset(self) -> int: ...
    @property
    def need(self) -> int: ...

def scan_window(
    window: Buffer, start: int, rows: RowBuffer, cursor: Cursor, path: str = "<memory>"
) -> None: ...
def scan(
    storage: Storage,
    strict: bool = True,
    visit: Callable[[RowBuffer, int, int], None] | None = None,
) -> RowBuffer: ...
def read_member(storage: Storage, offset: int) -> tuple[RowBuffer, int, int, int]: ...
def has_header(head: Buffer) -> bool: ...
