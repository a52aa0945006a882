"""Sphinx: `sphinx-build -W --keep-going -E -b html docs docs/_build/html`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from rayforce_trio import __version__

project = "rayforce-trio"
copyright = "the rayforce_trio maintainers"  # noqa: A001 - Sphinx reads this name
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "public_api",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_extensions", "examples"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
python_maximum_signature_line_length = 88  # longer ones have a line for each parameter
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
python_display_short_literal_types = True
html_copy_source = False

_OTHERS = {
    "anyio": "https://anyio.readthedocs.io/en/stable",
    "numpy": "https://numpy.org/doc/stable",
    "python": "https://docs.python.org/3",
    "trio": "https://trio.readthedocs.io/en/stable",
}
# Without a network, the names in _inventories are links, too.
intersphinx_mapping = {name: (url, (None, f"_inventories/{name}.inv")) for name, url in _OTHERS.items()}
intersphinx_timeout = 5  # seconds

copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"  # outputs have no button
copybutton_prompt_text = "$ "

html_search_scorer = str(Path(__file__).parent / "_scorer.js")

html_theme = "furo"
html_title = f"rayforce-trio {release}"
