"""`EpochOrder` and `ShardedSampler`: exactly partitioned, resumable."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imagearchive.errors import (
    OptionError,
    OptionTypeError,
    SampleIndexError,
    StateMismatchError,
)
from imagearchive.loader.order import (
    EpochOrder,
    ShardedSampler,
    find_rank,
)


@pytest.mark.parametrize("world_size", range(1, 18))
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_partition_the_epoch_exactly(world_size, drop_last):
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


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(0, 300),
    before=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 20)),
    after=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    shuffle=st.booleans(),
)
def test_the_rest_of_an_epoch_resumes_on_any_number_of_ranks(n, before, after, shuffle):
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


def test_order_without_shuffling_is_the_stored_one():
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
def test_values_out_of_range_are_refused(options, error):
    with pytest.raises(error):
        EpochOrder(10, **options)


def test_find_rank_reads_arguments_then_environment(monkeypatch):
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


def test_sharded_sampler_yields_the_order_and_a_new_one_each_epoch():
    sampler = ShardedSampler(5000, seed=8, rank=1, world_size=3)
    expected = [
        EpochOrder(5000, seed=8, epoch=e, rank=1, world_size=3, batch_size=9000)[0].tolist()
        for e in range(3)
    ]
    assert [list(sampler) for _ in range(3)] == expected
    sampler.set_epoch(1)
    assert list(sampler) == expected[1]
    assert len(sampler) == len(expected[0]) == 1667
    assert len(ShardedSampler([0] * 10, rank=0, world_size=3, drop_last=True)) == 3
    assert len(ShardedSampler(np.int64(10), rank=0, world_size=3)) == 4
    with pytest.raises(OptionTypeError, match="n must be an integer"):
        ShardedSampler(None, rank=0, world_size=1)
    assert list(ShardedSampler("abc", shuffle=False, rank=0, world_size=1)) == [0, 1, 2]


def test_sharded_sampler_resumes_at_every_sample():
    for received in range(26):
        samplers = [ShardedSampler(50, seed=2, rank=r, world_size=2) for r in range(2)]
        seen = []
        for sampler in samplers:
            list(sampler)  # so that the resumed epoch is not the first
            iterator = iter(sampler)
            seen += [next(iterator) for _ in range(received)]
        states = [sampler.state_dict() for sampler in samplers]
        assert states[0] == states[1]
        assert states[0] == samplers[0].state_dict(received=received)
        others = [ShardedSampler(50, seed=2, rank=r, world_size=3) for r in range(3)]
        for other in others:
            other.load_state_dict(pickle.loads(pickle.dumps(states[0])))
            assert other.state_dict() == states[0]
        rest = [index for other in others for index in other]
        if received < 25:
            assert states[0]["epoch"] == 1
            assert sorted(seen + rest) == list(range(50))
        else:
            assert (states[0]["epoch"], states[0]["position"]) == (2, 0)
            assert sorted(rest) == list(range(50))


def test_sharded_samplers_that_came_to_the_end_agree_although_some_had_one_sample_more():
    samplers = [ShardedSampler(10, rank=rank, world_size=4) for rank in range(4)]
    iterators = [iter(sampler) for sampler in samplers]
    for iterator in iterators:
        next(iterator), next(iterator)
    # Two of the four have two samples and cannot know that the others have three.
    assert {sampler.state_dict()["position"] for sampler in samplers} == {8}
    for sampler, iterator in zip(samplers, iterators):
        list(iterator)
        state = sampler.state_dict()
        assert (state["epoch"], state["position"]) == (1, 0)
        # Torch's loader has asked for all of them long before the loop receives them.
        state = sampler.state_dict(received=1)
        assert (state["epoch"], state["position"]) == (0, 4)


def test_sharded_sampler_refuses_states_of_other_data_by_name():
    state = ShardedSampler(50, seed=2, rank=0, world_size=1).state_dict()
    for options, name in (((51, 2), "number of samples, n, was 50"), ((50, 3), "seed was 2")):
        other = ShardedSampler(options[0], seed=options[1], rank=0, world_size=1)
        with pytest.raises(StateMismatchError, match=name):
            other.load_state_dict(state)
    own = ShardedSampler(50, seed=2, rank=0, world_size=1)
    with pytest.raises(StateMismatchError, match="position"):
        own.load_state_dict({**state, "position": 51})
    with pytest.raises(StateMismatchError, match="seed"):
        own.load_state_dict({key: value for key, value in state.items() if key != "seed"})


def test_sharded_sampler_drives_torch_data_loader():
    sampler = ShardedSampler(20, seed=1, rank=0, world_size=2)
    loader = torch.utils.data.DataLoader(list(range(20)), batch_size=4, sampler=sampler)
    batches = [batch.tolist() for batch in loader]
    own = EpochOrder(20, seed=1, rank=0, world_size=2, batch_size=4)
    assert batches == [batch.tolist() for batch in own]
