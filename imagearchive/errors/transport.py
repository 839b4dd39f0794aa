"""Carry an exception from a child process to its parent, with the text of its traceback.

Pickling an exception is not enough. It loses the traceback and the chain of causes. Exceptions
whose constructor takes other arguments than ``args`` pickle well and then fail, or change their
message, when they are unpickled; and a `SystemExit` would end the process that it arrives in.
"""

from __future__ import annotations

import pickle
import traceback
from typing import Final

from imagearchive.errors import WorkerError

__all__ = ["dump_exception", "load_exception"]

# Longer messages and tracebacks lose their middle.
MAX_TEXT: Final = 1 << 16


def dump_exception(error: BaseException) -> bytes:
    """Return what `load_exception` makes the exception from, in another process.

    Never raises because of the exception: what cannot be pickled crosses as text.

    Parameters
    ----------
    error : BaseException
        Whatever was raised.
    """
    pickled: bytes | None = None
    # SystemExit and KeyboardInterrupt are for this process, not for the parent.
    if isinstance(error, Exception):
        try:
            # With `args`, because a constructor may have changed them on the way.
            pickled = pickle.dumps((error, error.args), 5)
            if type(pickle.loads(pickled)[0]) is not type(error):
                pickled = None
        except Exception:  # noqa: BLE001 - foreign code decides what it raises
            pickled = None
    try:
        message = str(error)
    except Exception as failure:  # noqa: BLE001 - as above
        message = f"<str() raised {type(failure).__name__}>"
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception as failure:  # noqa: BLE001 - as above
        trace = f"<no traceback: formatting it raised {type(failure).__name__}>"
    kind = type(error).__qualname__
    return pickle.dumps((pickled, kind, _shorten(message), _shorten(trace)), 5)


def load_exception(data: bytes | bytearray | memoryview, name: str) -> Exception:
    """Return the exception that `dump_exception` was given, ready to be raised.

    It has its own type, arguments, attributes and notes. One that cannot be pickled or unpickled,
    and one that is not an `Exception`, becomes a `WorkerError` with its type and message. Either
    way ``__cause__`` holds the traceback of the other process as text.

    Parameters
    ----------
    data : bytes-like
        From a process that is trusted: unpickling runs code.
    name : str
        What the other process was doing, such as the name of the function; for messages.
    """
    pickled, kind, message, trace = pickle.loads(data)
    error: object = None
    if pickled is not None:
        try:
            error, args = pickle.loads(pickled)
            if isinstance(error, Exception):
                error.args = args
        except Exception as failure:  # noqa: BLE001 - foreign code decides what it raises
            error = None
            message += f" ({kind} cannot be rebuilt here: {failure!r})"
    if not isinstance(error, Exception):
        error = WorkerError(f"{name} raised {kind}: {message}")
    error.__cause__ = WorkerError(f"in the child process of {name}:\n\n{trace}")
    return error


def _shorten(text: str) -> str:
    left_out = len(text) - MAX_TEXT
    if left_out <= 0:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n... {left_out} characters left out ...\n{text[-half:]}"
