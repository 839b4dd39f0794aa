"""What servers have answered, so that opening an archive asks for nothing twice."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from imagearchive.errors import ImageArchiveError

__all__ = [
    "answer_of",
    "are_remembered",
    "ask_again",
    "forget_answer",
    "has_answer",
    "note_answer",
    "remember_answers",
]

T = TypeVar("T")

_answers: ContextVar[dict[Hashable, Any] | None] = ContextVar("answers", default=None)


@contextlib.contextmanager
def remember_answers() -> Iterator[None]:
    """Within the block, what a server has answered counts as its answer.

    Also in the threads of `TaskThreads` that the block starts, and in blocks inside it. The block
    should be short: what changes on the server meanwhile is noticed only when members are read.
    """
    if _answers.get() is not None:
        yield
        return
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


@contextlib.contextmanager
def ask_again() -> Iterator[None]:
    """Within the block, ask servers again, inside of `remember_answers`, too."""
    token = _answers.set(None)
    try:
        yield
    finally:
        _answers.reset(token)


def answer_of(question: Hashable, ask: Callable[[], T]) -> T:
    """Return the remembered answer to a question, or else ask, and remember the answer.

    Errors are answers, too: what `ask` raised is raised again.
    """
    answers = _answers.get()
    if answers is None:
        return ask()
    found = answers.get(question)
    if found is None:
        try:
            found = ask()
        except (ImageArchiveError, OSError) as error:
            answers[question] = copy.copy(error)
            raise
        answers[question] = found
    if isinstance(found, Exception):
        raise copy.copy(found)
    return cast("T", found)


def are_remembered() -> bool:
    """Whether answers are remembered now."""
    return _answers.get() is not None


def has_answer(question: Hashable) -> bool:
    """Whether there is a remembered answer."""
    answers = _answers.get()
    return answers is not None and question in answers


def note_answer(question: Hashable, answer: object) -> None:
    """Remember the answer to a question that need not be asked any more."""
    answers = _answers.get()
    if answers is not None:
        answers[question] = answer


def forget_answer(question: Hashable) -> None:
    """Ask again next time, because the answer has changed."""
    answers = _answers.get()
    if answers is not None:
        answers.pop(question, None)
