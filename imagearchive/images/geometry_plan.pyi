from collections.abc import Sequence
from typing import Any, final

from imagearchive.images.random import Stream

def random_region(
    stream: Stream,
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]: ...

@final
class GeometryPlan:
    def __new__(cls, steps: Sequence[tuple[int, tuple[Any, ...]]]) -> GeometryPlan: ...
    @property
    def steps(self) -> tuple[tuple[int, tuple[Any, ...]], ...]: ...
