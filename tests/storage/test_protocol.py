"""Which objects `isinstance` takes for storages."""

import pytest

from imagearchive.storage.protocol import (
    FileStorage,
    MappedStorage,
    QuickProtocol,
    ReadAheadStorage,
    Storage,
)

PROTOCOLS = [Storage, ReadAheadStorage, FileStorage, MappedStorage]
METHODS = ["read", "readinto", "check_unchanged", "close", "prefetch", "open_descriptor"]


def make(methods, **values):
    """Return an object of a new class with these methods, and with these values in the instance."""
    made = type("Made", (), dict.fromkeys(methods, lambda self: None))()
    vars(made).update(values)
    return made


def test_isinstance_protocol_needs_each_member():
    values = {"path": "a", "size": 1, "zero_copy": True, "identity": ""}
    assert isinstance(make(METHODS, **values), MappedStorage)
    for name in (*METHODS, *values):
        methods = [method for method in METHODS if method != name]
        rest = {key: value for key, value in values.items() if key != name}
        assert not isinstance(make(methods, **rest), MappedStorage), name


@pytest.mark.parametrize("kind", PROTOCOLS, ids=lambda kind: kind.__name__)
def test_isinstance_protocol_agrees_with_the_standard_library(kind):
    members = {"path", "size", "zero_copy", "identity", *METHODS}
    for missing in members:
        found = make([name for name in METHODS if name != missing])
        vars(found).update(dict.fromkeys(members - {missing, *METHODS}))
        standard = super(QuickProtocol, kind).__instancecheck__(found)
        assert isinstance(found, kind) == standard, missing


def test_isinstance_protocol_computes_no_property():
    class Lazy:
        path = ""
        size = 0

        @property
        def zero_copy(self):
            raise AssertionError("computed")

        def read(self, offset, size): ...
        def readinto(self, offset, buffer): ...
        def check_unchanged(self): ...
        def close(self): ...

    assert isinstance(Lazy(), Storage)
    assert not isinstance(Lazy(), ReadAheadStorage)


def test_isinstance_subclass_of_a_protocol_goes_by_the_class():
    class Concrete(Storage):
        pass

    assert isinstance(Concrete.__new__(Concrete), Concrete)
    assert not isinstance(make(METHODS, path="", size=0, zero_copy=True), Concrete)
