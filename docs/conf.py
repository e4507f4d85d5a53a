"""The documentation site: `make docs` builds it with Sphinx, from the Markdown of this folder and from docstrings.

A page is plain Markdown that reads on a forge too. The site opens from a disk, without a server and without an address
outside itself.
"""

import sys
from importlib import metadata
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

project = "SessionRec-JAX"
author = copyright = "SessionRec-JAX developers"
release = version = metadata.version("sessionrec-jax")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "site_pages"]
exclude_patterns = ["figures/*.py", "notebooks/*.py"]
myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 4
nitpicky = False
default_role = "code"
suppress_warnings = ["misc.highlighting_failure"]  # a block of the shell may show output too

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False, "exclude-members": "__init__,__new__"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "furo"
html_title = project
html_static_path = ["figures/style.css"]
html_css_files = ["style.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = html_show_copyright = html_show_sphinx = False
