"""What decoding one member may take: bounds against files made to exhaust memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imagearchive.errors import LimitError, OptionError
from imagearchive.errors.hints import Hint

__all__ = ["RATIO_FLOOR", "Limits"]

# Output that is harmless whatever it was compressed from: small inputs reach high ratios.
RATIO_FLOOR: Final = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What decoding one member may take; guards against files made to exhaust memory.

    Attributes
    ----------
    max_size : float
        Bytes that a member may have after decompression. Of all three, ``inf`` is no limit.
    max_ratio : float
        How many times its stored size a member may grow to, once it is beyond 64 MiB. Counted
        over all layers of ``x.json.gz.xz`` together.
    max_pixels : float
        Width times height of an image.
    """

    max_size: float = 1 << 30
    max_ratio: float = 1000.0
    max_pixels: float = 1 << 27

    def __post_init__(self) -> None:
        for name in ("max_size", "max_ratio", "max_pixels"):
            value = getattr(self, name)
            if isinstance(value, str | bytes | bool) or not value > 0:
                raise OptionError(f"{name}={value!r}: a number above 0, or inf for no limit")

    def allowed(self, stored: int) -> float:
        """Bytes that a member of `stored` bytes may become; infinite without limits."""
        return min(self.max_size, max(RATIO_FLOOR, stored * self.max_ratio))

    def check(self, size: int, stored: int) -> None:
        """Refuse a member that says it will have `size` bytes.

        Raises
        ------
        LimitError
        """
        if size > self.allowed(stored):
            raise self.exceeded(stored)

    def exceeded(self, stored: int) -> LimitError:
        """Return the error for a member of `stored` bytes that grew beyond what is allowed."""
        allowed = self.allowed(stored)
        which = "max_size" if allowed == self.max_size else "max_ratio"
        return LimitError(
            f"{stored} bytes decompress to more than {allowed:.0f}",
            hints=[
                Hint(
                    which,
                    f"to raise the limit (now {getattr(self, which)}) if you trust the archive",
                )
            ],
        )
