"""The names of the package `splitdataloader`: change the import, keep the code.

Differences: `write_split_data` writes 128 bins by default instead of 256, and refuses a directory
that holds a set unless ``start_clean=True`` or ``append=True`` is given; `MpQItr` raises what its
generator raises instead of ending early.
"""

from imagearchive.datasets.split import SplitDataLoader
from imagearchive.prefetch import MpQItr
from imagearchive.writers.split import write_split_data

__all__ = ["MpQItr", "SplitDataLoader", "write_split_data"]
