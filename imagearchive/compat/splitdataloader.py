"""The names of the package `splitdataloader`: change the import and keep the code.

Differences: `write_split_data` writes 128 bins by default instead of 256. It refuses a directory
that already contains bins unless ``start_clean=True`` or ``append=True`` is given. `MpQItr` raises
the exception of its generator instead of ending early.
"""

from imagearchive.containers.bins.writer import write_split_data
from imagearchive.datasets.bins import SplitDataLoader
from imagearchive.loader.generator_process import MpQItr

__all__ = ["MpQItr", "SplitDataLoader", "write_split_data"]
