"""Messages between two processes, here over a socket pair in one."""

import pickle
import socket
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagearchive.storage.framing import MessageReader, dump, send_message


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@given(st.lists(st.lists(st.sampled_from([0, 1, 7, 4096, 65_535, 65_536, 200_000])), max_size=6))
def test_messages_of_any_sizes_arrive(sizes):
    messages = [[bytes([i % 251]) * n for i, n in enumerate(parts)] for parts in sizes]
    left, right = socket.socketpair()
    with left, right:
        sender = threading.Thread(target=lambda: [send_message(left, *m) for m in messages])
        sender.start()
        reader = MessageReader(right)
        assert [[bytes(part) for part in reader.read()] for _ in messages] == messages
        sender.join()
        assert not reader.ready(0)


def test_messages_reader_at_the_end_raises(pair):
    left, right = pair
    reader = MessageReader(right)
    send_message(left, b"last")
    assert reader.ready(1)
    left.close()
    assert reader.read() == [b"last"]
    assert reader.ready(1)
    with pytest.raises(EOFError):
        reader.read()


def test_messages_reader_in_the_middle_of_a_message_raises(pair):
    left, right = pair
    left.sendall(b"\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0half")
    left.close()
    with pytest.raises(EOFError):
        MessageReader(right).read()


def test_messages_to_a_closed_socket_raise(pair):
    left, right = pair
    right.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_message(left, b"x")


@pytest.mark.parametrize(
    "array",
    [np.arange(10_000), np.arange(10_000)[::-3], np.zeros((20, 30, 40)).transpose(2, 0, 1)],
)
def test_messages_dump_keeps_arrays_out_of_the_pickle(array):
    head, buffers = dump({"image": array, "label": 3})
    assert len(head) < 500
    assert sum(map(len, buffers)) == array.nbytes
    found = pickle.loads(head, buffers=[bytearray(buffer) for buffer in buffers])
    np.testing.assert_array_equal(found["image"], array)
    found["image"][:] = 0
