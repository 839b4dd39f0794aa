"""The indexer of pickles, and the globals that it accepts."""

import pickle

import numpy as np
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


def test_is_allowed_matches_the_handlers():
    for module, name in GLOBALS:
        assert is_allowed(module.encode(), name.encode())
    words = sorted({word for names in GLOBALS for word in names})
    for module in words:
        for name in words:
            assert is_allowed(module.encode(), name.encode()) == ((module, name) in GLOBALS)
