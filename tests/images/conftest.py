"""Fixtures of the tests of native image code."""

import pytest

from imagearchive.images.render import use_simd


@pytest.fixture(params=[2, 1, 0], ids=["wide vectors", "vectors", "plain"])
def simd(request):
    """Run a test with all vector kernels, without those for AVX-512, and without any."""
    use_simd(request.param > 0, wide=request.param > 1)
    yield
    use_simd(True)
