"""`EpochOrder` and `find_rank`: ranks partition an epoch exactly, and it can be resumed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagearchive.datasets.permutation import Permutation
from imagearchive.errors import (
    OptionError,
    OptionTypeError,
    SampleIndexError,
)
from imagearchive.loader.order import (
    BlockShuffle,
    EpochOrder,
    check_shuffle,
    find_rank,
)


@pytest.mark.parametrize("world_size", range(1, 18))
@pytest.mark.parametrize("drop_last", [False, True])
def test_epoch_order_of_all_ranks_partitions_the_epoch(world_size, drop_last):
    for n in (0, 1, 5, 16, 17, 100, 289, 1003):
        for batch_size in (1, 3, 8):
            orders = [
                EpochOrder(
                    n,
                    seed=3,
                    epoch=n,
                    rank=rank,
                    world_size=world_size,
                    batch_size=batch_size,
                    drop_last=drop_last,
                )
                for rank in range(world_size)
            ]
            batches = [list(order) for order in orders]
            assert [len(order) for order in orders] == [len(b) for b in batches]
            seen = [int(i) for rank in batches for batch in rank for i in batch]
            assert len(seen) == len(set(seen)) == sum(order.samples for order in orders)
            counts = {len(b) for b in batches}
            if drop_last:
                assert counts == {n // (batch_size * world_size)}
                assert all(len(batch) == batch_size for rank in batches for batch in rank)
                assert n - len(seen) < batch_size * world_size
            else:
                assert sorted(seen) == list(range(n))
                assert max(counts) - min(counts) <= 1
                sizes = [order.samples for order in orders]
                assert max(sizes) - min(sizes) <= 1


@settings(max_examples=80)
@given(
    n=st.integers(0, 300),
    before=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 20)),
    after=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    shuffle=st.booleans(),
)
def test_epoch_order_from_a_position_resumes_on_any_number_of_ranks(n, before, after, shuffle):
    def ranks(world_size, batch_size, start):
        return [
            EpochOrder(
                n,
                seed=4,
                epoch=1,
                shuffle=shuffle,
                rank=rank,
                world_size=world_size,
                batch_size=batch_size,
                start=start,
            )
            for rank in range(world_size)
        ]

    world_size, batch_size, received = before
    first = ranks(world_size, batch_size, 0)
    seen = [int(i) for order in first for batch in list(order)[:received] for i in batch]
    positions = {order.position_after(received) for order in first}
    assert len(positions) == 1
    rest = ranks(*after, positions.pop())
    seen += [int(i) for order in rest for batch in order for i in batch]
    assert sorted(seen) == list(range(n))


def test_epoch_order_without_shuffle_is_ascending():
    order = EpochOrder(10, shuffle=False, epoch=4, batch_size=4)
    assert [batch.tolist() for batch in order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert order[-1].tolist() == [8, 9]
    assert "batch_size=4" in repr(order)
    with pytest.raises(SampleIndexError):
        order[3]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rank": 2, "world_size": 2}, OptionError),
        ({"rank": -1, "world_size": 2}, OptionError),
        ({"world_size": 0}, OptionError),
        ({"batch_size": 0}, OptionError),
        ({"batch_size": 2.5}, OptionTypeError),
        ({"start": 11}, OptionError),
        ({"seed": "1"}, OptionTypeError),
        ({"batch_size": True}, OptionTypeError),
        ({"rank": np.False_}, OptionTypeError),
    ],
)
def test_epoch_order_with_a_value_out_of_range_raises(options, error):
    with pytest.raises(error):
        EpochOrder(10, **options)


def test_find_rank_takes_arguments_before_the_environment(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert find_rank() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(OptionError, match="WORLD_SIZE"):
        find_rank()
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert find_rank() == (2, 3)
    assert find_rank(0, 5) == (0, 5)
    with pytest.raises(OptionError, match="both"):
        find_rank(rank=1)
    with pytest.raises(OptionError, match=r"rank must be .* got 5"):
        find_rank(5, 5)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(OptionError, match=r"rank must be .* got 3"):
        find_rank()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(OptionError, match="integers"):
        find_rank()


@settings(max_examples=120)
@given(
    n=st.integers(0, 300),
    blocks=st.builds(BlockShuffle, st.integers(1, 40), st.integers(1, 9)),
    before=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 20)),
    after=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 1000),
    reverse=st.booleans(),
)
def test_epoch_order_of_blocks_resumes_on_any_number_of_ranks(
    n, blocks, before, after, seed, epoch, reverse
):
    data_order = np.arange(n)[::-1].copy() if reverse else None

    def ranks(world_size, batch_size, start):
        return [
            EpochOrder(
                n, seed=seed, epoch=epoch, shuffle=blocks, rank=rank, world_size=world_size,
                batch_size=batch_size, start=start, data_order=data_order,
            )
            for rank in range(world_size)
        ]  # fmt: skip

    world_size, batch_size, received = before
    first = ranks(world_size, batch_size, 0)
    seen = [int(i) for order in first for batch in list(order)[:received] for i in batch]
    positions = {order.position_after(received) for order in first}
    assert len(positions) == 1
    position = positions.pop()
    whole = [int(i) for batch in ranks(1, 7, 0)[0] for i in batch]
    assert sorted(seen) == sorted(whole[:position])
    assert sorted(whole) == list(range(n))
    rest = [int(i) for order in ranks(*after, position) for batch in order for i in batch]
    assert sorted(rest) == sorted(whole[position:])


def test_epoch_order_of_blocks_keeps_neighbors_in_the_data_together():
    data_order = Permutation(1000, 3).take(np.arange(1000))
    order = EpochOrder(1000, shuffle=BlockShuffle(10, 3), batch_size=30, data_order=data_order)
    place = np.argsort(data_order)
    for batch in order:
        places = np.sort(place[batch])
        # A batch of 30 has samples of two windows, which are six blocks.
        assert np.count_nonzero(np.diff(places) > 10) <= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("block", None, None), "shuffle must be True, False, or 'blocks', got 'block'"),
        ((True, 5, None), "block_size= is for shuffle='blocks'"),
        ((False, None, 5), "blocks_per_window= is for shuffle='blocks'"),
        (("blocks", 0, None), "block_size must be at least 1, got 0"),
        (("blocks", 4, -1), "blocks_per_window must be at least 1, got -1"),
    ],
)
def test_check_shuffle_with_a_wrong_argument_raises(arguments, message):
    with pytest.raises(OptionError, match=message):
        check_shuffle(*arguments)
