"""Requests ahead: each range once, within the limits, and nobody waits forever."""

import signal
import threading
import time

import pytest

from imagearchive.storage.remote.prefetcher import Owner, Prefetcher

DATA = bytes(range(256)) * 256
MEBI = 1 << 20


class Server:
    """Counts the requests for `DATA`, which wait until `gate` is open."""

    def __init__(self):
        self.requests = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, offset, size):
        with self._lock:
            self.requests.append((offset, size))
            self.running += 1
            self.most = max(self.most, self.running)
        self.gate.wait(30)
        with self._lock:
            self.running -= 1
        return memoryview(DATA)[offset : offset + size]


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def made():
    prefetchers = []

    def make(*args, **kwargs):
        prefetchers.append(Prefetcher(*args, **kwargs))
        return prefetchers[-1]

    yield make
    for one in prefetchers:
        one.close()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_announced_range_is_read_by_one_request(server, made):
    prefetcher, owner = made(), Owner(server)
    prefetcher.announce(owner, [(100, 50), (160, 40)])
    assert prefetcher.read(owner, 160, 40) == DATA[160:200]
    assert prefetcher.read(owner, 100, 50) == DATA[100:150]
    assert server.requests == [(100, 100)]
    assert prefetcher.used == 0
    # It was read, so it is not kept.
    assert prefetcher.read(owner, 100, 50) is None


def test_range_that_was_not_announced_is_none(server, made):
    prefetcher, owner = made(), Owner(server)
    assert prefetcher.read(owner, 0, 10) is None
    prefetcher.announce(owner, [(0, 20)])
    assert prefetcher.read(owner, 0, 10) is None
    assert prefetcher.read_part(owner, 5, 100) == DATA[5:20]


def test_requests_in_flight_stay_within_the_limit(server, made):
    prefetcher, owner = made(in_flight=3), Owner(server)
    server.gate.clear()
    # Too far from each other for one request.
    owners = [Owner(server) for _ in range(10)]
    for one in owners:
        prefetcher.announce(one, [(0, 10)])
    wait_until(lambda: server.running == 3)
    server.gate.set()
    assert all(prefetcher.read(one, 0, 10) == DATA[:10] for one in owners)
    assert server.most == 3
    assert not owner.pending


def test_memory_stays_within_the_limit(server, made):
    prefetcher = made(limit=2500)
    owners = [Owner(server) for _ in range(10)]
    for one in owners:
        prefetcher.announce(one, [(0, 1000)])
    wait_until(lambda: len(server.requests) == 2 and server.running == 0)
    assert prefetcher.used == 2000
    for one in owners:
        assert prefetcher.read(one, 0, 1000) == DATA[:1000]
        assert prefetcher.used <= 2500
    wait_until(lambda: prefetcher.used == 0)
    assert len(server.requests) == 10


def test_half_of_the_memory_is_under_way_at_a_time(server, made):
    prefetcher, owner = made(limit=8000), Owner(server)
    far = [(number * MEBI, 1000) for number in range(6)]
    server.gate.clear()
    prefetcher.announce(owner, far)
    wait_until(lambda: server.running == 4)
    server.gate.set()
    for one in far:
        assert prefetcher.read(owner, *one) is not None
    assert server.most == 4
    # One that is larger is made alone.
    prefetcher.announce(owner, [(9 * MEBI, 5000)])
    wait_until(lambda: len(server.requests) == 7)


def test_ranges_that_nobody_reads_make_room(server, made):
    prefetcher = made(limit=2500)
    unread = [Owner(server) for _ in range(2)]
    for one in unread:
        prefetcher.announce(one, [(0, 1000)])
    wait_until(lambda: prefetcher.used == 2000 and not server.running)
    wanted = [Owner(server) for _ in range(5)]
    for one in wanted:
        prefetcher.announce(one, [(0, 1000)])
    for one in wanted:
        assert prefetcher.read(one, 0, 1000) == DATA[:1000]
    assert prefetcher.used <= 2500


def test_ranges_that_nobody_reads_make_room_for_requests_ahead(server, made):
    prefetcher, given_up, owner = made(limit=8000), Owner(server), Owner(server)
    far = [(number * MEBI, 1000) for number in range(24)]
    prefetcher.announce(given_up, far[:8])
    while len(server.requests) < 8 or server.running:
        time.sleep(0.001)
    prefetcher.announce(owner, far[8:])
    assert prefetcher.read(owner, *far[8]) == DATA[far[8][0] :][:1000]
    deadline = time.monotonic() + 10
    while len(server.requests) < 11 and time.monotonic() < deadline:
        time.sleep(0.001)
    # The reader made one of the requests; the others are ahead of it.
    assert len(server.requests) >= 11
    assert prefetcher.used <= 8000


def test_ranges_that_nobody_reads_make_room_for_a_larger_request_ahead(server, made):
    prefetcher, given_up, owner = made(limit=10_000), Owner(server), Owner(server)
    prefetcher.announce(given_up, [(number * MEBI, 1000) for number in range(9)])
    wait_until(lambda: len(server.requests) == 9 and not server.running)
    # The first of these does not fit, and what the readers want does.
    prefetcher.announce(owner, [(20 * MEBI, 4000)])
    later = [(number * MEBI, 500) for number in range(30, 34)]
    prefetcher.announce(owner, later)
    assert prefetcher.read(owner, *later[0]) is not None
    wait_until(lambda: {(20 * MEBI, 4000), *later} <= set(server.requests))
    assert prefetcher.used <= 10_000


def test_interrupted_read_takes_no_place_of_a_request(server, made):
    prefetcher, owner = made(in_flight=2), Owner(server)
    server.gate.clear()
    prefetcher.announce(Owner(server), [(0, 10), (5 * MEBI, 10)])
    wait_until(lambda: server.running == 2)

    def interrupted(offset, size):
        raise KeyboardInterrupt

    for _ in range(2):
        stopped = Owner(interrupted)
        prefetcher.announce(stopped, [(0, 10), (20, 10)])
        with pytest.raises(KeyboardInterrupt):
            prefetcher.read(stopped, 0, 10)
        # Another reader makes the request itself.
        assert prefetcher.read(stopped, 20, 10) is None
    assert prefetcher.used == 20
    server.gate.set()
    prefetcher.announce(owner, [(100, 10)])
    wait_until(lambda: (100, 10) in server.requests)


@pytest.fixture
def interrupted_by_usr1():
    """Have SIGUSR1 interrupt the main thread; SIGINT is ignored in the background of a shell."""
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_interrupted_wait_keeps_no_memory(made, interrupted_by_usr1):
    reader = threading.get_ident()

    def answer(offset, size):
        wait_until(lambda: (offset, size) not in owner.by_range)
        time.sleep(0.05)
        signal.pthread_kill(reader, signal.SIGUSR1)
        time.sleep(0.05)
        return memoryview(DATA)[offset : offset + size]

    prefetcher, owner = made(), Owner(answer)
    prefetcher.announce(owner, [(0, 10)])
    with pytest.raises(KeyboardInterrupt):
        prefetcher.read(owner, 0, 10)
    assert prefetcher.used == 0


def test_abandoned_ranges_are_dropped_when_the_lock_was_taken(server, made):
    prefetcher, gone, owner = made(), Owner(server), Owner(server)
    prefetcher.announce(gone, [(0, 1000)])
    wait_until(lambda: server.requests and not server.running)

    class Collecting(tuple):
        """A range that is compared when the garbage collector runs."""

        __slots__ = ()

        def __hash__(self):
            prefetcher.abandon(gone)
            return super().__hash__()

    prefetcher.announce(owner, [Collecting((4000, 50))])
    wait_until(lambda: prefetcher.used == 50)


def test_forgotten_ranges_take_no_memory(server, made):
    prefetcher, owner = made(), Owner(server)
    prefetcher.announce(owner, [(0, 1000), (3000, 1000)])
    wait_until(lambda: not server.running and server.requests)
    prefetcher.forget(owner)
    assert prefetcher.used == 0
    assert prefetcher.read(owner, 0, 1000) is None


def test_failed_request_raises_where_its_range_is_read(made):
    def fail(offset, size):
        raise ValueError("no such range")

    # The reader makes the request.
    prefetcher, owner = made(in_flight=0), Owner(fail)
    prefetcher.announce(owner, [(0, 10), (20, 10)])
    with pytest.raises(ValueError, match="no such range"):
        prefetcher.read(owner, 0, 10)
    # It was reported, so the other range is for its reader to request again.
    assert prefetcher.read(owner, 20, 10) is None
    assert prefetcher.used == 0


@pytest.mark.parametrize("again", ["read", "announce"])
def test_request_that_failed_before_its_range_is_read_is_made_again(made, again):
    second = threading.Event()
    healthy = False

    def fetch(offset, size):
        if offset:
            second.set()
        elif not healthy:
            raise ValueError("an outage")
        return memoryview(DATA)[:size]

    prefetcher, owner = made(in_flight=1), Owner(fetch)
    prefetcher.announce(owner, [(0, 10), (100 * MEBI, 10)])
    # One request at a time, so the first has failed.
    assert second.wait(30)
    healthy = True
    if again == "announce":
        prefetcher.announce(owner, [(0, 10)])
        assert prefetcher.read(owner, 0, 10) == DATA[:10]
    else:
        assert prefetcher.read(owner, 0, 10) is None


def test_many_threads_read_every_range_once(server, made):
    prefetcher = made(in_flight=4)
    owners = [Owner(server) for _ in range(60)]
    wrong = []

    def read(part):
        for number in part:
            prefetcher.announce(owners[number], [(number, 500)])
        found = [prefetcher.read(owners[number], number, 500) for number in part]
        wrong.extend(n for n, data in zip(part, found) if data != DATA[n : n + 500])

    threads = [threading.Thread(target=read, args=(range(k, 60, 6),)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert len(server.requests) == 60
    assert prefetcher.used == 0
