"""Sphinx settings: ``sphinx-build -W -b html docs docs/_build/html``."""

from importlib.metadata import version as installed_version

project = "imagearchive"
author = "The imagearchive developers"
copyright = f"2026, {author}"
version = release = installed_version("imagearchive")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
# Pages link to each other's headings.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# Signatures show defaults; types stand in the docstrings, in words.
autodoc_typehints = "none"
# Each page says which module its names are imported from.
add_module_names = False
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
# Attributes are described where the class is, and would be described twice otherwise.
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"imagearchive {release}"
