"""`Closable` and `Abortable`: ``with`` blocks."""

from __future__ import annotations

import pytest

from imagearchive.storage.closing import Abortable, Closable


class Resource(Closable):
    releases = 0

    def close(self) -> None:
        if not self.closed:
            self.releases += 1
        super().close()


def test_closable_with_block_closes_once() -> None:
    with Resource() as resource:
        assert not resource.closed
        resource.close()
    assert resource.closed
    assert resource.releases == 1


def test_closable_with_block_closes_on_error_and_raises_it() -> None:
    resource = Resource()
    with pytest.raises(ZeroDivisionError), resource:
        _ = 1 / 0
    assert resource.closed


class Writer(Abortable):
    def __init__(self) -> None:
        self.ends: list[str] = []

    def close(self) -> None:
        self.ends.append("closed")

    def abort(self) -> None:
        self.ends.append("aborted")


def test_abortable_with_block_closes() -> None:
    with Writer() as writer:
        assert writer.ends == []
    assert writer.ends == ["closed"]


def test_abortable_with_block_aborts_on_error() -> None:
    writer = Writer()
    with pytest.raises(ZeroDivisionError), writer:
        _ = 1 / 0
    assert writer.ends == ["aborted"]
