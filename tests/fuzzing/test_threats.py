"""The limits that `docs/development/threats.md` states are those of the code."""

import importlib
import re

import pytest
from support.paths import ROOT

from imagearchive.loader.options import DEFAULT_MAX_PIXELS
from imagearchive.storage.limits import Limits

TEXT = (ROOT / "docs" / "development" / "threats.md").read_text()
FIXED = re.findall(r"^\| `([a-z_.]+)\.([A-Z_]+)` \| ([0-9,]+) \|", TEXT, re.MULTILINE)
DEFAULTS = dict(re.findall(r"^\| `(max_[a-z]+)` \| ([^|]+) \|", TEXT, re.MULTILINE))


@pytest.mark.parametrize(("module", "name", "value"), FIXED)
def test_threats_fixed_limit_is_that_of_the_code(module, name, value):
    found = getattr(importlib.import_module(f"imagearchive.{module}"), name)
    assert found == int(value.replace(",", ""))


def test_threats_defaults_are_those_of_limits():
    values = {name: text.replace("1 GiB", str(1 << 30)) for name, text in DEFAULTS.items()}
    assert {name: int(text.replace(",", "")) for name, text in values.items()} == vars(Limits())
    assert f"| `DataLoader(max_pixels=)` | {DEFAULT_MAX_PIXELS:,} |" in TEXT


def test_threats_table_is_not_empty():
    assert len(FIXED) >= 10
