"""Settings of the documentation; `make docs` builds it."""

from __future__ import annotations

from abbe import __version__

project = "Abbe"
author = "The Abbe developers"
copyright = "2026, The Abbe developers"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]

# Pages with code cells (quickstart, results) are executed by every build; an error in a cell is an error of the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars, and warnings with paths of the machine
nb_render_markdown_format = "myst"  # cells give tables
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "Abbe"
html_sidebars = {"**": []}  # a dozen pages: the header lists them
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 8,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
}
