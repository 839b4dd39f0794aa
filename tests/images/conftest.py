"""Fixtures of the tests of native image code."""

import pytest

from imagearchive.images.render import use_simd


@pytest.fixture(params=[True, False], ids=["vectors", "plain"])
def simd(request):
    """Run a test with the vector kernels and without them."""
    use_simd(request.param)
    yield
    use_simd(True)
