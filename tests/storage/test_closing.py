"""`Closable`: ``with`` blocks and `closed`."""

from __future__ import annotations

import pytest

from imagearchive.storage.closing import Closable


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
