"""Which archives inside an archive are opened in place: the argument ``nested``."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal, Union

from imagearchive.errors import OptionError
from imagearchive.errors.arguments import shorten

__all__ = ["MAX_DEPTH", "Nested", "Nesting"]

#: The argument; see `imagearchive.open`. This library itself also passes a `Nesting`.
Nested = Union[bool, int, Literal["auto", "keep"], "Nesting"]

#: How deep archives inside archives are opened.
MAX_DEPTH: Final = 8


@dataclasses.dataclass(frozen=True)
class Nesting:
    """Which archives inside an archive are opened.

    Attributes
    ----------
    depth : int
        How many levels are opened below the archive itself.
    keep : bool
        Whether the directory of each of them keeps the extensions of its name.
    auto : bool
        Whether a level is opened only if all its members are archives.
    """

    depth: int = MAX_DEPTH
    keep: bool = False
    auto: bool = False

    @classmethod
    def from_argument(cls, nested: object) -> Nesting | None:
        """Return what the argument means, None for False.

        Raises
        ------
        OptionError
            It is neither a bool, ``"auto"``, ``"keep"``, nor a number from 0 to 8.
        """
        if isinstance(nested, Nesting):
            return nested
        if nested is True:
            return cls()
        if nested == "auto":
            return cls(auto=True)
        if nested == "keep":
            return cls(keep=True)
        if isinstance(nested, int) and 0 <= nested <= MAX_DEPTH:
            return cls(depth=nested) if nested else None
        raise OptionError(
            f"nested must be True, False, 'auto', 'keep', or a number of levels up to {MAX_DEPTH}, "
            f"got {shorten(nested)}"
        )

    @property
    def argument(self) -> Nested:
        """The argument that means this."""
        if self.auto or self.keep:
            return "auto" if self.auto else "keep"
        return self.depth if self.depth < MAX_DEPTH else True

    @property
    def variant(self) -> str:
        """What distinguishes the index file from that of the archive itself."""
        argument = self.argument
        return ".nested" if argument is True else f".nested-{argument}"

    def to_metadata(self) -> dict[str, Any]:
        """Return a description for the metadata of an index."""
        return dataclasses.asdict(self)

    def built(self, meta: dict[str, Any]) -> bool:
        """Whether an index with these metadata was built for this."""
        found = meta.get("nested")
        wanted = self.to_metadata()
        return isinstance(found, dict) and {key: found.get(key) for key in wanted} == wanted
