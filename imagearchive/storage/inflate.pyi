from typing import Final

from typing_extensions import Buffer

__all__ = ["GZIP", "RAW", "Inflater"]

RAW: Final[int]
GZIP: Final[int]

class Inflater:
    @property
    def ended(self) -> bool: ...
    @property
    def at_block(self) -> bool: ...
    @property
    def bits(self) -> int: ...
    def __new__(
        cls, format: int, window: Buffer | None = None, bits: int = 0, byte: int = 0
    ) -> Inflater: ...
    def decompress(
        self, source: Buffer, size: int, stop_at_block: bool = False
    ) -> tuple[bytes, int]: ...
    def window(self) -> bytes: ...
