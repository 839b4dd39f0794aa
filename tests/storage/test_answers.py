"""`answers`: what servers have answered while an archive is opened."""

import pytest

from imagearchive.errors import RemoteError
from imagearchive.storage.answers import (
    answer_of,
    ask_again,
    forget_answer,
    has_answer,
    note_answer,
    remember_answers,
)
from imagearchive.storage.task_threads import TaskThreads


class Server:
    """Counts what it is asked, and answers with the number, or raises an error."""

    def __init__(self, error=None):
        self.asked = 0
        self.error = error

    def __call__(self):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.asked


def test_answer_is_remembered_within_the_block_only():
    server = Server()
    with remember_answers():
        assert answer_of("a", server) == answer_of("a", server) == 1
        with remember_answers():
            assert answer_of("a", server) == 1
        assert answer_of("b", server) == 2
        with ask_again():
            assert answer_of("a", server) == 3
        forget_answer("b")
        assert not has_answer("b")
        note_answer("b", 7)
        assert answer_of("b", server) == 7
    assert not has_answer("a")
    assert answer_of("a", server) == 4


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone", "a.tar"), RemoteError("out")])
def test_answer_that_is_an_error_is_raised_again(error):
    server = Server(error)
    with remember_answers():
        for _ in range(2):
            with pytest.raises(type(error)) as raised:
                answer_of("a", server)
            assert str(raised.value) == str(error)
    assert server.asked == 1


def test_answer_is_remembered_by_task_threads():
    server = Server()
    with remember_answers(), TaskThreads(2) as threads:
        threads.submit(answer_of, "a", server).result()
        assert answer_of("a", server) == 1
    with TaskThreads(1) as threads:
        assert threads.submit(answer_of, "a", server).result() == 2
