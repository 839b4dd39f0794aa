"""`ShardedSampler`: the order of an epoch, one index after the other."""

import pickle

import numpy as np
import pytest

from imagearchive.errors import OptionTypeError, StateMismatchError
from imagearchive.loader.order import EpochOrder
from imagearchive.loader.sharded_sampler import ShardedSampler


def test_sharded_sampler_of_each_epoch_yields_its_epoch_order():
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


def test_sharded_sampler_state_at_every_sample_resumes():
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


def test_sharded_sampler_states_at_the_end_of_uneven_ranks_agree():
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


def test_sharded_sampler_state_of_other_data_raises():
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


def test_sharded_sampler_pickled_in_an_epoch_keeps_its_state():
    sampler = ShardedSampler(50, seed=2, rank=0, world_size=1)
    iterator = iter(sampler)
    seen = [next(iterator) for _ in range(7)]
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.state_dict() == sampler.state_dict()
    copy.load_state_dict(copy.state_dict())
    assert seen + list(copy) == list(EpochOrder(50, seed=2, batch_size=50)[0])
    assert list(copy) == list(EpochOrder(50, seed=2, epoch=1, batch_size=50)[0])


@pytest.mark.needs_torch
def test_sharded_sampler_in_torch_data_loader_yields_the_order():
    import torch

    sampler = ShardedSampler(20, seed=1, rank=0, world_size=2)
    loader = torch.utils.data.DataLoader(list(range(20)), batch_size=4, sampler=sampler)
    batches = [batch.tolist() for batch in loader]
    own = EpochOrder(20, seed=1, rank=0, world_size=2, batch_size=4)
    assert batches == [batch.tolist() for batch in own]


def test_sharded_sampler_repr_names_its_options():
    text = repr(ShardedSampler(10, shuffle=False, rank=1, world_size=2))
    assert text == "ShardedSampler(10 samples, shuffle=False, seed=0, rank=1, world_size=2)"
