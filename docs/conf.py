"""Settings of Sphinx, which makes the site from these pages: `make docs`."""

import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))

project = "perception_nodes"
release = version = ElementTree.parse(ROOT / "package.xml").findtext("version")
copyright = "the authors of perception_nodes, Apache-2.0"
html_title = f"{project} {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False


def setup(app):
    """Add the tables of parameters to their page."""
    from parameter_tables import parameter_tables

    def complete(_, page, source):
        if page == "reference/parameters":
            source[0] += parameter_tables()

    app.connect("source-read", complete)
