"""`Limits`: bounds on decoding a member, against files made to exhaust memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from imagearchive.errors import LimitError, OptionTypeError
from imagearchive.errors.arguments import check_number, shorten
from imagearchive.errors.hints import Hint

__all__ = ["RATIO_FLOOR", "Limits", "check_limits", "limit_hint", "pixel_limits"]

# Up to this many bytes of output are harmless at any ratio: small inputs reach high ratios.
RATIO_FLOOR: Final = 64 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on decoding a member, against files made to exhaust memory.

    ``inf`` turns a limit off.

    Attributes
    ----------
    max_size : float
        Largest size of a decompressed member in bytes.
    max_ratio : float
        Largest ratio of decompressed to stored size of a member that exceeds 64 MiB. All layers of
        ``x.json.gz.xz`` count together.
    max_pixels : float
        Largest width times height of an image.
    max_objects : float
        Largest number of values in a JSON or MessagePack member; 8 values for each stored byte are
        allowed in any case. A value of two bytes takes up to 100 in memory.
    """

    max_size: float = 1 << 30
    max_ratio: float = 1000.0
    max_pixels: float = 1 << 27
    max_objects: float = 1 << 22

    def __post_init__(self) -> None:
        for name in ("max_size", "max_ratio", "max_pixels", "max_objects"):
            check_number(name, getattr(self, name), above=0, finite=False)

    def allowed(self, stored_size: int) -> float:
        """Return the largest decompressed size of a member of `stored_size` bytes."""
        return min(self.max_size, max(RATIO_FLOOR, stored_size * self.max_ratio))

    def check(self, size: int, stored_size: int) -> None:
        """Refuse a member that claims to decompress to `size` bytes, if that is too much.

        Raises
        ------
        LimitError
        """
        if size > self.allowed(stored_size):
            raise self.exceeded(stored_size)

    def allowed_objects(self, stored_size: int) -> float:
        """Return the largest number of values in a member of `stored_size` bytes."""
        return max(self.max_objects, 8 * stored_size)

    def too_many_objects(self, stored_size: int) -> LimitError:
        """Return the error for a member of `stored_size` bytes that has more values."""
        return LimitError(
            f"{stored_size} bytes hold more than {self.allowed_objects(stored_size):.0f} values",
            hints=[limit_hint("max_objects", self.max_objects)],
        )

    def exceeded(self, stored_size: int) -> LimitError:
        """Return the error for a member of `stored_size` bytes that exceeds the limits."""
        allowed = self.allowed(stored_size)
        name = "max_size" if allowed == self.max_size else "max_ratio"
        limit = getattr(self, name)
        return LimitError(
            f"{stored_size} bytes decompress to more than {allowed:.0f}",
            hints=[limit_hint(name, limit)],
        )


def check_limits(limits: Limits | None) -> Limits:
    """Return the limits that an argument gives; None stands for the default."""
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise OptionTypeError(
            f"limits must be a Limits object, such as Limits(max_ratio=1e4), got {shorten(limits)}"
        )
    return limits


@functools.lru_cache(maxsize=16, typed=True)
def pixel_limits(max_pixels: float) -> Limits:
    """Return ``Limits(max_pixels=max_pixels)``, for decoders that ask again at each image."""
    return Limits(max_pixels=max_pixels)


def limit_hint(name: str, limit: float) -> Hint:
    """Return the hint that the argument `name`, which is `limit` now, may be raised."""
    return Hint(name, f"to raise the limit (now {limit}) if you trust the archive")
