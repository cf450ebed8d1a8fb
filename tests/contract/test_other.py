"""Conformance 52, 53, and the rules of the house: what imports what, and what an import leaves behind."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import rich.pretty  # noqa: F401 - scvi-tools 1.4.2 uses it without importing it
from scvi.model.base import BaseModelClass

import transanno
from transanno import TransAnno, TransAnnoPretrain, metrics, pl, pp, tl

PACKAGE = Path(transanno.__file__).parent


class TestModels:
    """Conformance 52."""

    def test_representation(self, model, pretrained, capsys):
        for shown in (model, pretrained):
            repr(shown)
            output = capsys.readouterr().out
            for part in (type(shown).__name__, "views", "16", "22", "53", "Trained"):
                assert part in output, part

    def test_setup_can_be_viewed(self, model, pretrained, capsys):
        for shown in (model, pretrained):
            shown.view_anndata_setup()
            output = capsys.readouterr().out
            assert "n_vars" in output
            assert "53" in output
        model.view_anndata_setup()
        output = capsys.readouterr().out
        assert "NK cell" in output
        assert "batch2" in output

    def test_setup_arguments_can_be_viewed(self, saved_reference, capsys):
        TransAnno.view_setup_args(str(saved_reference))
        output = capsys.readouterr().out
        assert "cell_type" in output

    def test_deregister_manager(self, reference, query, small):
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.deregister_manager(reference)
        assert model.get_anndata_manager(reference) is None

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_every_class_has_its_own_registrations(self, cls, reference, small):
        cls.setup_anndata(reference, **({"labels_key": "cell_type"} if cls is TransAnno else {}))
        assert cls._get_most_recent_anndata_manager(reference) is not None
        other = TransAnnoPretrain if cls is TransAnno else TransAnno
        assert other._get_most_recent_anndata_manager(reference) is None


class TestDocstrings:
    @pytest.mark.parametrize(
        "function",
        [getattr(cls, name) for cls in (TransAnno, TransAnnoPretrain) for name in ("setup_anndata", "setup_mudata")],
        ids=lambda function: function.__qualname__,
    )
    def test_templates_are_filled(self, function):
        assert "%(" not in function.__doc__

    @pytest.mark.parametrize("cls", [TransAnno, TransAnnoPretrain])
    def test_parameters_are_described(self, cls):
        functions = [cls, *(f for name, f in inspect.getmembers(cls, callable) if f_is_ours(f) and name[0] != "_")]
        functions += [getattr(package, name) for package in (metrics, pl, pp, tl) for name in package.__all__]
        for function in functions:
            if inspect.isclass(function) and is_dataclass(function):
                continue  # each field has a docstring of its own
            if hasattr(BaseModelClass, function.__name__) and "Parameters\n---" not in inspect.getdoc(function):
                continue  # a mend of scvi-tools' method, which describes them
            names = [
                (
                    "**"
                    if parameter.kind is parameter.VAR_KEYWORD
                    else "*" * (parameter.kind is parameter.VAR_POSITIONAL)
                )
                + parameter.name
                for parameter in inspect.signature(function).parameters.values()
            ]
            described = {name.strip() for line in inspect.getdoc(function).splitlines() for name in line.split(",")}
            missing = {name for name in names if name not in described} - {"self", "cls", "**kwargs"}
            assert missing == set(), function


def f_is_ours(function) -> bool:
    return (getattr(function, "__module__", None) or "").startswith("transanno")


# Floors from the bottom up; a file may import from its own floor and from those below.
FLOORS = [
    {"_constants", "checks"},
    {"data", "html", "nn"},
    {"training", "predictions", "metrics", "presets"},
    {"saving", "evidence", "pl"},
    {"models"},
    {"pp", "jax"},
    {"report"},
    {"tl"},
    {"_cli", "cli"},
]


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, at its top or inside of functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


class TestImports:
    """One direction, and nothing that was not asked for; conformance 53."""

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
    def test_imports_go_one_way(self, path):
        rank = {name: i for i, floor in enumerate(FLOORS) for name in floor}
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        assert own in rank, f"{own} has no place in FLOORS of this test yet"
        imported = {name.split(".")[1] for name in imports_of(path) if name.startswith("transanno.")}
        assert {name for name in imported & rank.keys() if rank[name] > rank[own]} == set()

    @pytest.mark.parametrize("path", sorted((PACKAGE / "nn").glob("*.py")), ids=lambda path: path.name)
    def test_networks_know_torch_only(self, path):
        allowed = {
            "numpy",  # whose quadrature it takes
            "torch",
            "transanno",
            "contextlib",
            "inspect",
            "math",
            "warnings",
            "typing",
            "collections",
            "dataclasses",
            "__future__",
        }
        assert {name.split(".")[0] for name in imports_of(path)} <= allowed

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
    def test_no_private_names_of_scvi_are_imported(self, path):
        private = {name for name in imports_of(path) if name.startswith("scvi.") and "._" in name}
        assert private == set()

    def test_import_is_instant_and_leaves_no_trace(self):
        """Neither heavy modules, nor a change of loggers, warning filters, seeds or files."""
        run(
            """
            import logging, os, random, sys, warnings
            before = (random.getstate(), list(warnings.filters), list(logging.root.handlers), logging.root.level)
            files = set(os.listdir("."))
            import transanno
            assert transanno.__version__
            assert "TransAnno" in dir(transanno)
            heavy = {"torch", "scvi", "anndata", "scanpy", "jax", "matplotlib", "numpy", "pandas"} & set(sys.modules)
            assert not heavy, heavy
            after = (random.getstate(), list(warnings.filters), list(logging.root.handlers), logging.root.level)
            assert before == after
            assert not logging.getLogger("transanno").handlers
            assert set(os.listdir(".")) == files
            """
        )

    def test_models_load_no_jax_and_touch_no_seed(self):
        """scvi-tools is imported first: what it does to loggers and filters is not ours."""
        run(
            """
            import logging, random, sys, warnings
            import numpy, torch, scvi, scvi.model.base, scvi.train, scvi.dataloaders, scanpy, mudata
            had_jax = "jax" in sys.modules  # scvi-tools 1.4.2 imports it wherever it is installed
            before = (random.getstate(), numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
            trace = (list(warnings.filters), list(logging.root.handlers), logging.root.level, scvi.settings.seed)
            n_threads = torch.get_num_threads()
            from transanno import TransAnno, TransAnnoPretrain, metrics, pl, tl
            import transanno.cli
            assert ("jax" in sys.modules) == had_jax
            after = (random.getstate(), numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
            assert before == after
            assert trace == (list(warnings.filters), list(logging.root.handlers), logging.root.level, scvi.settings.seed)
            assert torch.get_num_threads() == n_threads
            assert not logging.getLogger("transanno").handlers
            """
        )

    def test_import_works_without_any_extra(self):
        """Conformance 53: as on a machine where none of the optional packages is installed."""
        run(
            """
            import sys
            for name in ("jax", "jaxlib", "flax", "optax", "numpyro", "huggingface_hub", "captum", "shap", "ray",
                         "skmisc", "celltypist", "igraph", "leidenalg", "lamindb", "tiledbsoma", "mlflow"):
                sys.modules[name] = None
            from transanno import TransAnno, TransAnnoPretrain, pl, pp, tl
            import transanno.cli, transanno.models, transanno.nn
            assert TransAnno and TransAnnoPretrain and pl.umap and tl.annotate and pp.merge
            """
        )

    def test_unknown_name(self):
        with pytest.raises(AttributeError, match="no attribute 'TransAnnoNet'"):
            transanno.TransAnnoNet

    def test_version(self):
        assert transanno.__version__ == importlib.metadata.version("transanno")

    def test_public_names(self):
        assert {*transanno.__all__} == {
            "TransAnno",
            "TransAnnoPretrain",
            "TransAnnoWarning",
            "metrics",
            "pl",
            "pp",
            "presets",
            "tl",
        }
        assert all(getattr(transanno, name) is not None for name in transanno.__all__)
        assert set(transanno.__all__) <= set(dir(transanno))


def run(code: str) -> None:
    """Run code in a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", inspect.cleandoc(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
