"""Repeats requests that failed for a reason that may pass."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from imagearchive.errors import OptionError

__all__ = ["RetryPolicy", "TransientError", "seconds_of"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A failure that lasts for so many attempts, by default some seconds, is worth a warning, but not
# one for each of the requests that are under way.
_WARN_AFTER: Final = 4
_WARN_EVERY: Final = 30.0


class TransientError(Exception):
    """A request failed, and may succeed when it is repeated.

    Parameters
    ----------
    reason : str
        What happened, for the message of the final error.
    wait : float, optional
        Seconds that the server asks to wait; 0 to repeat at once.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long a request is repeated; the defaults are those of obstore.

    Attributes
    ----------
    max_retries : int
        How many times at most.
    retry_timeout : float
        Seconds since the first attempt after which there is no further one.
    init_backoff, max_backoff : float
        Seconds before the first repetition, and at most before any.
    base : float
        By how much the wait grows each time. A random part of it spreads the processes of a job.
    """

    max_retries: int = 10
    retry_timeout: float = 180.0
    init_backoff: float = 0.1
    max_backoff: float = 15.0
    base: float = 2.0
    _warned_at: list[float] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> RetryPolicy:
        """Return the policy of an option ``retry_config`` as obstore takes it."""
        found: dict[str, Any] = {}
        for name, value in {**(config or {}), **((config or {}).get("backoff") or {})}.items():
            if name == "max_retries":
                found[name] = int(value)
            elif name == "base":
                found[name] = float(value)
            elif name in ("retry_timeout", "init_backoff", "max_backoff"):
                found[name] = seconds_of(f"retry_config[{name!r}]", value)
            elif name != "backoff":
                raise OptionError(
                    f"storage_options: retry_config has no {name!r}; it has max_retries, "
                    f"retry_timeout, and backoff"
                )
        return cls(**found)

    def to_config(self) -> dict[str, Any]:
        """Return the policy as obstore takes it, which wants no durations as text."""
        return {
            "max_retries": self.max_retries,
            "retry_timeout": timedelta(seconds=self.retry_timeout),
            "backoff": {
                "init_backoff": timedelta(seconds=self.init_backoff),
                "max_backoff": timedelta(seconds=self.max_backoff),
                "base": self.base,
            },
        }

    def run(self, call: Callable[[], T], fail: Callable[[str], Exception]) -> T:
        """Call a function until it raises no `TransientError`, or the policy says that it is over.

        Parameters
        ----------
        call : callable
        fail : callable
            Makes the error to raise then, from a text that says what happened last.
        """
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                return call()
            except TransientError as error:
                elapsed = time.monotonic() - started
                if attempt >= self.max_retries or elapsed >= self.retry_timeout:
                    tried = f" ({attempt + 1} attempts in {elapsed:.1f} s)" if attempt else ""
                    raise fail(error.reason + tried) from None
                wait, reason = error.wait, error.reason
            if wait is None:
                limit = min(self.max_backoff, self.init_backoff * self.base**attempt)
                wait = limit * (0.5 + 0.5 * random.random())
            attempt += 1
            if attempt == _WARN_AFTER:
                self._warn(fail(reason))
            time.sleep(min(wait, self.max_backoff))

    def _warn(self, failure: Exception) -> None:
        now = time.monotonic()
        if self._warned_at and now < self._warned_at[-1] + _WARN_EVERY:
            return
        self._warned_at[:] = [now]
        logger.warning(
            "%s; trying again, up to %d times within %g s (retry_config in storage_options)",
            failure,
            self.max_retries,
            self.retry_timeout,
        )


_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(name: str, value: Any) -> float:
    """Return a duration in seconds: a number, a `timedelta`, or text such as ``30s``."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip().replace(" ", "")
    for unit in sorted(_UNITS, key=len, reverse=True):
        number = text.removesuffix(unit)
        if number != text:
            try:
                return float(number) * _UNITS[unit]
            except ValueError:
                break
    raise OptionError(f"storage_options: {name} must be a duration such as '30s', got {value!r}")
