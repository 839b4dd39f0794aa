"""Small archives in the layouts of published datasets: names, nesting, compression, label files.

`LAYOUTS` has a function for each. It writes the files to a folder and returns what datasets must
contain: for each variable of the recipe a dict from the number of an image to its label, which is
the name of a class or a number. Every pixel of image number n has the value `8 * n`.
"""

# Each module adds its layouts.
from support.layouts import arrays, class_directories, fields, image_lists, tables  # noqa: F401
from support.layouts.files import LAYOUTS, mask, picture

__all__ = ["LAYOUTS", "mask", "picture"]
