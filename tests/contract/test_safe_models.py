"""Opening a model file of unknown origin runs nothing; what is saved is weights and JSON."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scvi.model.base import BaseModelClass

import transanno
from transanno import TransAnno, TransAnnoPretrain, tl
from transanno.cli import main
from transanno.saving._format import FORMAT_VERSION
from transanno.saving._plain import to_json


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


class PandasBomb(Bomb):
    """The same by way of a library that models are made with: pandas' own reader of pickles."""

    def __reduce__(self):
        inner = self.trace.with_suffix(".pickle")
        inner.write_bytes(pickle.dumps(Bomb(self.trace)))
        return pd.read_pickle, (str(inner),)


def _as_model(part: object) -> dict:
    """Like a file of scvi-tools."""
    registry = {"model_name": "TransAnno", "setup_args": {}, "field_registries": {}}
    attributes = {"registry_": registry, "init_params_": {"kwargs": {}, "non_kwargs": {}}, "history_": part}
    return {"model_state_dict": OrderedDict(w=torch.zeros(2)), "var_names": np.array(["a"]), "attr_dict": attributes}


def _hidden(bomb: Bomb) -> np.ndarray:
    array = np.empty(1, dtype=object)
    array[0] = bomb
    return array


BOMBS = {
    "alone": lambda trace, path: torch.save(Bomb(trace), path),
    "plain pickle": lambda trace, path: path.write_bytes(pickle.dumps(Bomb(trace))),
    "legacy torch file": lambda trace, path: torch.save(Bomb(trace), path, _use_new_zipfile_serialization=False),
    "as weights": lambda trace, path: torch.save({"model_state_dict": Bomb(trace)}, path),
    "in a whole model": lambda trace, path: torch.save(_as_model(Bomb(trace)), path),
    "in an array": lambda trace, path: torch.save(_as_model(_hidden(Bomb(trace))), path),
    "through pandas": lambda trace, path: torch.save(_as_model(PandasBomb(trace)), path),
}


@pytest.fixture(params=BOMBS)
def bomb(request, tmp_path):
    """Folder with a bomb for a model -> folder, file that the bomb would make."""
    folder, trace = tmp_path / "model", tmp_path / "it_went_off"
    folder.mkdir()
    BOMBS[request.param](trace, folder / "model.pt")
    for name in ("model_params.pt", "attr.pkl"):  # of scvi-tools before 0.15
        shutil.copy(folder / "model.pt", folder / name)
    (folder / "var_names.csv").write_text("a\n")
    return folder, trace


READERS = {
    "load": lambda folder, query: TransAnno.load(folder, query),
    "load, pretrained": lambda folder, query: TransAnnoPretrain.load(folder, False),
    "load_query_data": lambda folder, query: TransAnno.load_query_data(query, folder),
    "prepare_query_anndata": lambda folder, query: TransAnno.prepare_query_anndata(query, folder),
    "from_pretrained": lambda folder, query: TransAnno.from_pretrained(folder, query, "cell_type"),
    "from_checkpoint": lambda folder, query: TransAnno.from_checkpoint(
        folder / "model.pt", query.var_names, ["A", "B"]
    ),
    "from_checkpoint, pretrained": lambda folder, query: TransAnnoPretrain.from_checkpoint(
        folder / "model.pt", query.var_names
    ),
    "annotate": lambda folder, query: tl.annotate(query, model=folder),
    "annotate, pretrained": lambda folder, query: tl.annotate(
        query, query.copy(), labels_key="cell_type", pretrained=folder
    ),
    "load_registry": lambda folder, query: TransAnno.load_registry(folder),
    "view_setup_args": lambda folder, query: TransAnno.view_setup_args(folder),
    "convert_legacy_save": lambda folder, query: TransAnno.convert_legacy_save(folder, folder / "new"),
}


class TestBombs:
    @pytest.mark.parametrize("reader", READERS)
    def test_nothing_in_a_model_file_is_executed(self, bomb, reader, query):
        folder, trace = bomb
        with pytest.raises(ValueError) as caught:
            READERS[reader](folder, query)
        assert not trace.exists()
        assert len(str(caught.value)) > 60

    @pytest.mark.parametrize("option", ["--model", "--pretrained"])
    def test_nothing_is_executed_from_the_command_line(self, bomb, option, query, tmp_path, capsys):
        folder, trace = bomb
        query.write_h5ad(tmp_path / "query.h5ad")
        options = ["--query", tmp_path / "query.h5ad", "--out", tmp_path / "out.h5ad", option, folder]
        if option == "--pretrained":
            options += ["--reference", tmp_path / "query.h5ad", "--labels-key", "cell_type"]
        assert main(["annotate", *map(str, options)]) == 2
        assert not trace.exists()
        assert "Traceback" not in capsys.readouterr().err

    @pytest.mark.parametrize("kind", BOMBS)
    def test_the_bombs_are_real(self, kind, tmp_path):
        BOMBS[kind](tmp_path / "trace", tmp_path / "file")
        if kind == "plain pickle":
            pickle.loads((tmp_path / "file").read_bytes())
        else:
            torch.load(tmp_path / "file", weights_only=False)
        assert (tmp_path / "trace").exists()

    def test_the_package_unpickles_nowhere(self):
        for path in Path(transanno.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("pickle.load", "pickle.loads", "pd.read_pickle", "joblib.load"), path
                    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert called != "torch.load" or options.get("weights_only") == "True", path
                    assert options.get("allow_pickle") != "True", path

    def test_refusal_says_what_was_found_and_what_to_do(self, tmp_path, query):
        torch.save(_as_model(Bomb(tmp_path / "trace")), tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"holds more than data \(.*mkdir.*was not opened.*model\.save"):
            TransAnno.load(tmp_path, query)


def rewrite(folder: Path, **changes) -> None:
    """Change parts of the metadata of a saved model."""
    content = torch.load(folder / "model.pt", weights_only=True)
    content["metadata"] = json.dumps({**json.loads(content["metadata"]), **changes})
    torch.save(content, folder / "model.pt")


@pytest.fixture
def folder(saved_reference, tmp_path):
    return Path(shutil.copytree(saved_reference, tmp_path / "model"))


class TestFormat:
    def test_file_is_plain_data(self, folder):
        # torch's own list of harmless names is enough: not a single one of ours
        assert torch.serialization.get_unsafe_globals_in_checkpoint(folder / "model.pt") == []
        content = torch.load(folder / "model.pt", weights_only=True)
        assert all(isinstance(weight, torch.Tensor) for weight in content["model_state_dict"].values())
        assert json.loads(content["metadata"])["format_version"] == FORMAT_VERSION

    def test_readers_of_scvi_tools_understand_it(self, folder, model):
        # its hub reads registry and arguments in this way
        registry = BaseModelClass.load_registry(str(folder))
        assert registry["model_name"] == "TransAnno"
        assert registry["setup_args"] == model.registry["setup_args"]

    def test_registry_is_read(self, folder, model, capsys):
        assert TransAnno.load_registry(folder).keys() == model.registry.keys()
        TransAnno.view_setup_args(folder)
        assert "cell_type" in capsys.readouterr().out

    def test_newer_format_is_refused(self, folder):
        rewrite(folder, format_version=FORMAT_VERSION + 1, versions={"transanno": "9.8.7"})
        found = rf"saved by transanno 9\.8\.7 in format {FORMAT_VERSION + 1}.*Update transanno"
        with pytest.raises(ValueError, match=found):
            TransAnno.load(folder, False)

    @pytest.mark.parametrize("reader", ["load", "load_query_data", "annotate", "load_registry"])
    def test_format_that_was_never_released_is_refused(self, reader, folder, query):
        """Models with slots instead of views, whose weights would all be missing or left over."""
        content = torch.load(folder / "model.pt", weights_only=True)
        metadata = json.loads(content["metadata"])
        arguments = metadata["attributes"]["init_params_"]["non_kwargs"]
        arguments |= {"encoder": "slots", "n_slots": 3}
        rewrite(folder, format_version=2, versions={"transanno": "0.1.0"}, attributes=metadata["attributes"])
        found = r"model\.pt was saved by transanno 0\.1\.0 in format 2, and this version, .*, reads format 4.*Train the model again"
        with pytest.raises(ValueError, match=found):
            READERS[reader](folder, query)

    def test_card_says_what_the_model_knows(self, folder, model):
        card = json.loads((folder / "card.json").read_text())
        assert card["class"] == "TransAnno"
        assert card["cell_types"] == model.labels.tolist()
        assert (card["n_genes"], card["n_cells"], card["n_batches"]) == (53, 97, 2)
        assert 0 < card["last_epoch"]["train_loss"] < 10

    def test_history_and_arrays_come_back_as_they_were(self, folder, model):
        loaded = TransAnno.load(folder, False)
        assert loaded.history.keys() == model.history.keys()
        for name, values in model.history.items():
            pd.testing.assert_frame_equal(loaded.history[name], values)
        np.testing.assert_array_equal(loaded.train_indices, model.train_indices)
        assert loaded.train_indices.dtype == model.train_indices.dtype

    def test_what_needs_pickle_is_refused_on_saving(self, model, tmp_path):
        model.callback_ = object()
        with pytest.raises(TypeError, match=r"attributes\.callback_ is a object.*without pickle"):
            model.save(tmp_path / "model")
        with pytest.raises(ValueError, match="pickle_module"):
            model.save(tmp_path / "other", save_kwargs={"pickle_module": pickle})

    def test_backup_url_fetches_a_missing_file(self, folder, tmp_path):
        TransAnno.load(tmp_path / "new", False, backup_url=(folder / "model.pt").as_uri())
        assert (tmp_path / "new" / "model.pt").exists()

    @pytest.mark.parametrize("method", ["load", "from_checkpoint", "__init__", "train"])
    def test_only_setup_methods_are_called(self, folder, method, reference):
        attributes = TransAnno.load(folder, False)
        registry = {**attributes.registry, "setup_method_name": method}
        metadata = json.loads(torch.load(folder / "model.pt", weights_only=True)["metadata"])
        metadata["attributes"]["registry_"] = json.loads(to_json(registry))
        rewrite(folder, attributes=metadata["attributes"])
        with pytest.raises(ValueError, match="set up by"):
            TransAnno.load(folder, reference)


class TestDamage:
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99, 0.9999])
    def test_cut_file(self, folder, share):
        path = folder / "model.pt"
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="damaged"):
            TransAnno.load(folder, False)

    def test_changed_bytes_never_surface_as_an_error_of_a_library(self, folder, query):
        path, rng = folder / "model.pt", np.random.default_rng(0)
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(40):
            damaged = content.copy()
            damaged[rng.integers(0, content.size, size=rng.integers(1, 200))] ^= np.uint8(rng.integers(1, 255))
            path.write_bytes(damaged.tobytes())
            try:
                TransAnno.load(folder, False)  # a byte of a weight may have changed
            except ValueError as error:
                assert str(folder) in str(error), error

    @pytest.mark.parametrize(
        "metadata",
        ["", "[", "[]", "{}", "7", '{"format_version": "x"}', '{"format_version": 1}', None, [1], "[" * 9999],
    )
    def test_damaged_metadata(self, folder, metadata):
        content = torch.load(folder / "model.pt", weights_only=True)
        content["metadata"] = metadata
        torch.save(content, folder / "model.pt")
        with pytest.raises(ValueError, match="damaged"):
            TransAnno.load(folder, False)

    @pytest.mark.parametrize("part", ["registry_", "init_params_"])
    @pytest.mark.parametrize("value", [None, {}, [], "x"], ids=repr)
    def test_incomplete_metadata(self, folder, part, value):
        attributes = json.loads(torch.load(folder / "model.pt", weights_only=True)["metadata"])["attributes"]
        rewrite(folder, attributes={**attributes, part: value})
        with pytest.raises(ValueError, match="damaged|holds a None model"):
            TransAnno.load(folder, False)

    @pytest.mark.parametrize("name", ["__class__", "_x", "a b"])
    def test_odd_attributes(self, folder, name):
        attributes = json.loads(torch.load(folder / "model.pt", weights_only=True)["metadata"])["attributes"]
        rewrite(folder, attributes={**attributes, name: 1})
        with pytest.raises(ValueError, match="no attribute of a model"):
            TransAnno.load(folder, False)

    @pytest.mark.parametrize("change", ["missing", "shape", "type"])
    def test_weights_that_do_not_fit(self, folder, change):
        content = torch.load(folder / "model.pt", weights_only=True)
        weights = content["model_state_dict"]
        name = next(name for name, weight in weights.items() if weight.ndim == 2)
        if change == "missing":
            del weights[name]
        else:
            weights[name] = weights[name][:1] if change == "shape" else "a string"
        torch.save(content, folder / "model.pt")
        with pytest.raises(ValueError, match="do not fit|no tensors"):
            TransAnno.load(folder, False)

    def test_cut_data(self, model, tmp_path):
        model.save(tmp_path / "model", save_anndata=True)
        path = tmp_path / "model" / "adata.h5ad"
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(ValueError, match=r"saved data.*cannot be read as h5ad"):
            TransAnno.load(tmp_path / "model")
