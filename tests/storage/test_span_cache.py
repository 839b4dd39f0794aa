"""`SpanCache`: each span is decompressed once, and no failure leaves a thread waiting."""

import os
import threading

import pytest
from support.threads import run_in_threads

from imagearchive.storage.span_cache import SpanCache

A, B, C = ("a", 0), ("b", 0), ("c", 0)


def begin_in_thread(cache, span, decompress):
    """Have a thread decompress a span; return it when it has begun."""
    begun = threading.Event()

    def work():
        begun.set()
        return decompress()

    def get():
        try:
            cache.get(span, work)
        except KeyboardInterrupt:
            pass

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    assert begun.wait(60)
    return thread


def test_span_cache_in_threads_decompresses_each_span_once():
    cache, made = SpanCache(1000, 4), []

    def decompress(number):
        made.append(number)
        return bytes([number]) * 10

    def read(_):
        for number in range(20):
            assert cache.get(("a", number), lambda n=number: decompress(n)) == bytes([number]) * 10

    run_in_threads(read, 4)
    assert sorted(made) == list(range(20))


def test_span_cache_drops_the_spans_used_longest_ago():
    cache, made = SpanCache(30, 0), []

    def get(number):
        return cache.get(("a", number), lambda: made.append(number) or bytes(10))

    for number in [0, 1, 2, 0, 3, 0, 1]:
        get(number)
    assert made == [0, 1, 2, 3, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_span_cache_after_a_failed_thread_lets_another_try(error):
    cache, fail = SpanCache(100), threading.Event()

    def broken():
        fail.wait(60)
        raise error

    def get():
        with pytest.raises(error):
            cache.get(A, broken)

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    threading.Timer(0.05, fail.set).start()
    assert cache.get(A, lambda: b"data") == b"data"
    thread.join(60)
    assert not thread.is_alive()


def test_span_cache_in_a_child_forked_while_a_thread_decompresses_does_not_wait():
    cache, go = SpanCache(100), threading.Event()
    thread = begin_in_thread(cache, A, lambda: go.wait(60) and b"data")
    pid = os.fork()
    if not pid:
        os._exit(7 if cache.get(A, lambda: b"data") == b"data" else 1)
    status = os.waitpid(pid, 0)[1]
    go.set()
    thread.join(60)
    assert os.waitstatus_to_exitcode(status) == 7


def test_span_cache_with_spans_made_of_other_spans_does_not_wait_for_itself():
    """A span of an archive inside an archive is made of spans of the outer one."""
    cache, go = SpanCache(100), threading.Event()
    outer = begin_in_thread(cache, A, lambda: go.wait(60) and b"a")
    cache.request(C, lambda: cache.get(B, lambda: b"b") + b"c")
    asked = threading.Event()

    def middle():
        asked.set()
        return cache.get(A, lambda: b"a") + b"b"

    inner = threading.Thread(target=cache.get, args=(B, middle), daemon=True)
    inner.start()
    assert asked.wait(60)
    threading.Timer(0.05, go.set).start()
    for thread in (outer, inner):
        thread.join(20)
        assert not thread.is_alive()
    assert cache.get(B, lambda: b"other") == b"ab"
