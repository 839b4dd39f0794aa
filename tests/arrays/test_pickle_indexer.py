"""The indexer of pickles, and the globals that it accepts."""

import os
import pickle
import signal

import numpy as np
import pytest
from support.object_arrays import objects

from imagearchive.arrays.objects.allowed import GLOBALS
from imagearchive.arrays.objects.indexer import LOOKAHEAD, PickleIndexer
from imagearchive.arrays.objects.symbols import is_allowed


def test_pickle_indexer_windows_of_any_size_give_equal_tables():
    rng = np.random.default_rng(1)
    values = [rng.integers(0, 255, rng.integers(0, 3000), np.uint8) for _ in range(30)]
    values += [["text" * n, {"k": n}] for n in range(200)]
    stream = pickle.dumps(objects(values), protocol=4)
    tables = []
    for size in (LOOKAHEAD, LOOKAHEAD + 1, 4096, len(stream)):
        indexer = PickleIndexer(len(stream), len(values))
        outcome = "more"
        while outcome == "more":
            outcome = indexer.feed(stream[indexer.position : indexer.position + size])
        assert outcome == ""
        tables.append([table.tolist() for table in indexer.tables()])
    assert all(table == tables[0] for table in tables)


def test_pickle_indexer_walk_file_runs_signal_handlers_between_windows(tmp_path):
    batch = b"(" + b"N" * 1000 + b"e"
    stream = pickle.dumps(objects([None] * 1000), protocol=2).replace(batch, 30_000 * batch)
    path = tmp_path / "a.pickle"
    path.write_bytes(stream)
    indexer = PickleIndexer(len(stream), 30_000_000, 30_000_000)
    positions = []
    before = signal.signal(signal.SIGALRM, lambda *_: positions.append(indexer.position))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        with path.open("rb") as file:
            assert indexer.walk_file(file.fileno(), 0) == ""
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert any(0 < position < indexer.position for position in positions)


def test_pickle_indexer_walk_file_raises_the_error_of_the_system(tmp_path):
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            PickleIndexer(100, 1).walk_file(directory, 0)
    finally:
        os.close(directory)


def test_is_allowed_matches_the_handlers():
    for module, name in GLOBALS:
        assert is_allowed(module.encode(), name.encode())
    words = sorted({word for names in GLOBALS for word in names})
    for module in words:
        for name in words:
            assert is_allowed(module.encode(), name.encode()) == ((module, name) in GLOBALS)
