"""What a saved position of a loader or sampler contains, and how it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imagearchive.errors import OptionError, OptionTypeError, StateMismatchError
from imagearchive.errors.arguments import check_integer
from imagearchive.loader.locality import describe_data_order
from imagearchive.loader.order import BlockShuffle

__all__ = ["STATE_HINTS", "check_state", "shuffle_state"]

#: What to do if an entry of the state of a `DataLoader` differs.
STATE_HINTS: Final = {
    "dataset": "load it with the dataset it was saved with, unchanged",
    "seed": "pass the same seed to the loader",
    "shuffle": "pass the same shuffle to the loader",
    "block_size": "pass the same block_size to the loader",
    "blocks_per_window": "pass the same blocks_per_window to the loader",
    "data_order": "load it with the same archive, whose members are stored in another order now",
    "order_version": "this release orders epochs differently; finish the epoch with the old one",
}


def shuffle_state(
    shuffle: bool | BlockShuffle, data_order: npt.NDArray[np.int64] | None
) -> dict[str, Any]:
    """Return the entries of a state that say how the samples are shuffled, as plain values."""
    if not isinstance(shuffle, BlockShuffle):
        return {"shuffle": shuffle}
    return {"shuffle": "blocks", **asdict(shuffle), "data_order": describe_data_order(data_order)}


def check_state(
    state: Mapping[str, Any], own: Mapping[str, Any], hints: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """Compare a saved state with the current one; return the epoch and the position to resume at.

    Parameters
    ----------
    state, own : mapping
        The saved state, and what ``state_dict()`` returns now.
    hints : mapping, optional
        For the name of an entry, what to do if it differs.

    Raises
    ------
    StateMismatchError
        An entry is missing, or one other than ``epoch`` and ``position`` differs.
    """
    if not isinstance(state, Mapping):
        raise StateMismatchError(f"state must be what state_dict() returned, got {state!r}")
    for name, value in own.items():
        if name not in state:
            raise StateMismatchError(
                f"the saved state has no entry {name!r}: it was saved by another kind of object "
                f"or by an older release"
            )
        if name not in ("epoch", "position") and state[name] != value:
            hint = (hints or {}).get(name, "pass the same data and options as when it was saved")
            what = "the number of samples, n," if name == "n" else name
            raise StateMismatchError(
                f"the saved state does not match: {what} was {state[name]!r} when it was saved and "
                f"is {value!r} now; {hint}"
            )
    try:
        epoch = check_integer("epoch", state["epoch"])
        position = check_integer("position", state["position"], 0, int(state["n"]))
    except (OptionError, OptionTypeError) as error:
        raise StateMismatchError(f"the saved state is damaged: {error}") from None
    return epoch, position
