"""Sphinx configuration of the documentation."""

import os
import shutil
import warnings
from importlib.metadata import metadata
from pathlib import Path

info = metadata("transanno")

# -- project ---------------------------------------------------------------------------------------------------------

project = info["Name"]
author = "transanno developers"
copyright = f"2026, {author}"
version = release = info["Version"]

# -- reading ---------------------------------------------------------------------------------------------------------

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon, whose parameter lists it adds the types to
    "sphinxcontrib.bibtex",
]
# Links between notebooks are found only where they lie below this folder, and not through a symbolic link.
_TUTORIALS = Path(__file__).parent / "tutorials"
shutil.rmtree(_TUTORIALS, ignore_errors=True)
shutil.copytree(_TUTORIALS.parents[1] / "tutorials", _TUTORIALS, ignore=shutil.ignore_patterns("*.py", "__pycache__"))

exclude_patterns = ["_build", "Thumbs.db", "**.ipynb_checkpoints", "tutorials/README.md"]
templates_path = ["_templates"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Notebooks are committed with their outputs: a build needs neither their data nor their minutes.
nb_execution_mode = "off"

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# -- API reference ---------------------------------------------------------------------------------------------------

autosummary_generate = True
autosummary_ignore_module_all = False  # what __all__ names is what a module page lists
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # left to sphinx_autodoc_typehints

napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_include_init_with_doc = False
napoleon_use_param = True
napoleon_use_rtype = False  # a Returns section is prose, its type is in the annotation
napoleon_custom_sections = ["Reads", "Writes"]  # keys of an AnnData

# Its own use of something that Sphinx 10 will remove, said once per docstring; nothing here can mend it.
warnings.filterwarnings("ignore", message=".*_RstSnippetParser.set_application.* is deprecated")
typehints_defaults = "braces"
always_document_param_types = True

# Links to other projects need their inventories from the network, and a build has to pass without one: they are made
# only where the documentation is published. For the same reason unresolved references are no errors (nitpicky).
nitpicky = False
if os.environ.get("READTHEDOCS") == "True":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

# -- HTML ------------------------------------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
