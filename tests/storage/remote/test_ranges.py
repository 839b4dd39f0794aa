"""Requests for ranges: neighbors together, nothing too large, everything covered."""

from hypothesis import given
from hypothesis import strategies as st

from imagearchive.storage.remote.ranges import plan_requests

RANGES = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 120)), max_size=30)


def test_ranges_with_a_small_gap_are_one_request():
    (request,) = plan_requests([(100, 10), (0, 10), (150, 5)], max_gap=90)
    assert request == (0, 155, [(0, 10), (100, 10), (150, 5)])


def test_ranges_with_a_large_gap_are_two_requests():
    planned = plan_requests([(0, 10), (111, 10)], max_gap=100)
    assert [(one.offset, one.size) for one in planned] == [(0, 10), (111, 10)]


def test_small_ranges_do_not_fetch_far_more_than_they_are():
    planned = plan_requests([(0, 512), (100_000, 512), (400_000, 512)])
    assert [one.offset for one in planned] == [0, 100_000, 400_000]
    assert len(plan_requests([(0, 400_000), (700_000, 400_000)])) == 1


def test_ranges_longer_than_the_limit_together_are_two_requests():
    planned = plan_requests([(0, 60), (60, 60)], max_gap=10, max_request=100)
    assert [(one.offset, one.size) for one in planned] == [(0, 60), (60, 60)]


@given(RANGES, st.integers(0, 50), st.integers(1, 200))
def test_ranges_are_all_served_and_requests_stay_within_the_limits(ranges, gap, limit):
    planned = plan_requests(ranges, gap, limit)
    served = [one for request in planned for one in request.ranges]
    assert sorted(served) == sorted({one for one in ranges if one[1]})
    for request in planned:
        starts = [offset for offset, _ in request.ranges]
        ends = [offset + size for offset, size in request.ranges]
        assert (request.offset, request.offset + request.size) == (min(starts), max(ends))
        assert request.size <= limit or len(request.ranges) == 1
        reached = ends[0]
        for start, end in zip(starts[1:], ends[1:]):
            assert start - reached <= gap
            reached = max(reached, end)
