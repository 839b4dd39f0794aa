import logging
from collections.abc import Buffer
from typing import Final

from imagearchive._scan.rows import RowBuffer
from imagearchive.storage import Storage

NAME: Final[str]
VERSION: Final[int]
logger: logging.Logger

class Cursor:
    done: bool
    def __init__(self, file_size: int, offset: int = 0) -> None: ...
    @property
    def offset(self) -> int: ...
    @property
    def need(self) -> int: ...
    @property
    def sparse(self) -> tuple[int, int, int]: ...

def scan_window(
    window: Buffer, start: int, rows: RowBuffer, cursor: Cursor, path: str = "<memory>"
) -> None: ...
def scan(storage: Storage, strict: bool = True) -> RowBuffer: ...
def sniff(head: Buffer, path: str) -> bool: ...
