"""Sphinx configuration. Tables of entries, errors and commands are written at build time by the modules in ``_ext``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import sciinfer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))


def copy_tutorials() -> None:
    """Sphinx reads only below its own folder; the notebooks live beside it."""
    target = HERE / "tutorials"
    target.mkdir(exist_ok=True)
    sources = {path.name: path for path in (HERE.parent / "tutorials").glob("*.md")}
    for stale in {path.name for path in target.glob("*.md")} - set(sources):
        (target / stale).unlink()
    for name, path in sources.items():
        if not (target / name).exists() or (target / name).read_bytes() != path.read_bytes():
            shutil.copy2(path, target / name)


copy_tutorials()

project = "sciinfer"
author = "the sciinfer developers"
copyright = author
version = release = sciinfer.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "registry_tables",
    "error_tables",
    "command_help",
    "docstrings",
]
exclude_patterns = ["_build", "jupyter_execute", "Thumbs.db"]
root_doc = "index"
language = "en"
smartquotes = False  # they would turn --option into a dash

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

nb_execution_mode = "force"  # -D nb_execution_mode=off builds without running the tutorials
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "training"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False

html_theme = "furo"
html_title = f"sciinfer {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
