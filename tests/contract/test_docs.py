"""The pages name what there is."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import transanno

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
MODULES = ["pp", "tl", "metrics", "presets", "pl", *(["jax"] if find_spec("jax") else [])]
# A table of everything that a module offers, made by Sphinx.
WHOLE = re.findall(r"^   (\w+)$", API, re.MULTILINE)


@pytest.mark.parametrize("module", MODULES)
def test_reference_lists_all_that_is_public(module):
    names = importlib.import_module(f"transanno.{module}").__all__
    assert module in WHOLE or not [name for name in names if f"   {module}.{name}\n" not in API]


def test_reference_lists_all_of_the_package():
    public = [name for name in transanno.__all__ if name not in {"__version__", *MODULES, "jax", "nn"}]
    assert not [name for name in public if f"   {name}\n" not in API]


def test_reference_lists_nothing_that_is_not_there():
    for path in re.findall(r"^   ((?:\w+\.)*\w+)$", API, re.MULTILINE):
        if path.startswith("jax") and find_spec("jax") is None:
            continue
        found = transanno
        for name in path.split("."):
            found = getattr(found, name, None) or importlib.import_module(f"transanno.{name}")
        assert found is not None


def test_citation_is_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f'version: "{version}"' in (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_conda_asks_for_what_pip_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    other_names = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    for dependency in project["dependencies"]:
        name, limit = re.fullmatch(r"([\w-]+)(.*)", dependency).groups()
        assert f"    - {other_names.get(name, name)} {limit}\n" in recipe, dependency


def test_gallery_shows_all_notebooks():
    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for path in (ROOT / "tutorials").glob("*.ipynb"):
        assert gallery.count(f"tutorials/{path.stem}\n") == 2, path.name  # its card, and the table of contents
        assert (ROOT / "docs" / "_static" / "gallery" / f"{path.stem}.png").exists(), path.name
