"""The files of an exported model: whole, of a known format, and belonging together."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from transanno import TransAnno
from transanno.saving._export import PREDICTOR_FILE, WEIGHTS_FILE, read_export


@pytest.fixture
def folder(model, tmp_path):
    model.export(tmp_path / "exported")
    return tmp_path / "exported"


def edit(folder, **values) -> None:
    content = json.loads((folder / PREDICTOR_FILE).read_text())
    (folder / PREDICTOR_FILE).write_text(json.dumps({**content, **values}))


class TestRoundTrip:
    def test_weights_are_those_that_prediction_reads(self, model, folder):
        exported, weights = read_export(folder), model.module.state_dict()
        left_out = {name for name in weights if name not in exported.weights}
        assert {name.split(".")[0] for name in left_out} == {"expression_head", "commonest_bins", "is_other"}
        for name, weight in exported.weights.items():
            assert weight.dtype == np.float32
            np.testing.assert_array_equal(weight, weights[name].numpy())

    def test_what_the_model_knows_beside_them(self, model, folder):
        exported = read_export(folder)
        assert exported.architecture == model.module.architecture
        assert exported.labels.tolist() == model.labels.tolist()
        assert exported.batches == ["batch1", "batch2"]
        assert exported.spec.batch_key == "batch"
        pd.testing.assert_index_equal(exported.genes, model.genes)
        assert exported.cells_per_pass == {"outputs": 1024, "gradients": 512}

    def test_may_lie_beside_the_saved_model(self, model, tmp_path):
        model.save(tmp_path / "both")
        model.export(tmp_path / "both")
        assert (
            TransAnno.load(tmp_path / "both", False).labels.tolist() == read_export(tmp_path / "both").labels.tolist()
        )


class TestRefusals:
    def test_is_not_replaced_unasked(self, model, folder):
        with pytest.raises(ValueError, match="holds an exported model already"):
            model.export(folder)
        model.export(folder, overwrite=True)

    def test_an_untrained_model(self, reference, small, tmp_path):
        TransAnno.setup_anndata(reference, "cell_type")
        with pytest.raises(RuntimeError, match="untrained"):
            TransAnno(reference, **small).export(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"nowhere is not an exported model: it does not exist\. Pass the folder"):
            read_export(tmp_path / "nowhere")

    def test_a_saved_model(self, saved_reference):
        with pytest.raises(ValueError, match=re.escape("It was written by save(). Export the model where torch is")):
            read_export(saved_reference)

    def test_another_format(self, folder):
        edit(folder, format_version=99, transanno_version="9.9")
        with pytest.raises(ValueError, match=r"exported by transanno 9\.9 in format 99.*reads format 1"):
            read_export(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', '{"__type__": "os"}'])
    def test_a_damaged_description(self, folder, text):
        (folder / PREDICTOR_FILE).write_text(text)
        with pytest.raises(ValueError, match=r"predictor\.json is damaged"):
            read_export(folder)

    def test_a_description_that_lacks_a_part(self, folder):
        content = json.loads((folder / PREDICTOR_FILE).read_text())
        del content["labels"]
        (folder / PREDICTOR_FILE).write_text(json.dumps(content))
        with pytest.raises(ValueError, match="is damaged .*labels"):
            read_export(folder)

    def test_weights_of_another_model(self, folder):
        with open(folder / WEIGHTS_FILE, "ab") as file:
            file.write(b"more")
        with pytest.raises(ValueError, match=r"is not the file that predictor\.json was written with"):
            read_export(folder)

    def test_parts_that_do_not_fit(self, folder):
        edit(folder, batches=["batch1"])
        with pytest.raises(ValueError, match=r"batch_embedding\.weight has 2 rows instead of 1"):
            read_export(folder)
