"""A layer that only one of reference and query has."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from transanno import TransAnno, pp, tl
from transanno.cli import main


def only_in_a_layer(adata, layer):
    adata.layers[layer] = adata.X.copy()
    adata.X = adata.X.toarray() - 0.7
    return adata


@pytest.mark.parametrize("layer", ["umi"])
@pytest.mark.parametrize("side", ["reference", "query"])
def test_of_the_other_x_is_used(side, layer, reference, query, fast):
    arguments = {"labels_key": "cell_type", "max_epochs": 1, "calibrate": False, **fast}
    expected = query.copy()
    tl.annotate(expected, reference.copy(), **arguments)
    only_in_a_layer(reference if side == "reference" else query, layer)
    other = "query" if side == "reference" else "reference"
    with pytest.warns(UserWarning, match=f"layer='{layer}' is not a layer of {other}: of {other}, X is used"):
        tl.annotate(query, reference, layer=layer, **arguments)
    np.testing.assert_array_equal(query.obsm["X_transanno"], expected.obsm["X_transanno"])
    assert pp.check(query, reference, layer=layer).is_usable


def test_a_layer_that_neither_has_is_an_error(reference, query):
    with pytest.raises(KeyError, match="layer='counts' is not a layer of query.*Leave layer out"):
        tl.annotate(query, reference, labels_key="cell_type", layer="counts")


def test_x_that_holds_no_counts_is_refused(reference, query):
    only_in_a_layer(reference, "umi")
    query.X = query.X.toarray() - 0.7
    with pytest.warns(UserWarning, match="not a layer of query"), pytest.raises(ValueError, match="looks scaled"):
        tl.annotate(query, reference, labels_key="cell_type", layer="umi")


def test_a_layer_of_the_model_that_the_query_lacks(reference, query, small, fast):
    only_in_a_layer(reference, "counts")
    TransAnno.setup_anndata(reference, "cell_type", layer="counts")
    model = TransAnno(reference, **small)
    model.train(1, **fast)
    with pytest.warns(UserWarning, match="layer='counts' is not a layer of query.*The model was set up with it"):
        mapped = TransAnno.load_query_data(query, model, accelerator="cpu")
    np.testing.assert_array_equal(mapped.adata.layers["counts"].toarray(), query.X.toarray())
    with pytest.raises(KeyError, match="layer='umi' is not a layer of query"):
        TransAnno.load_query_data(query, model, layer="umi", accelerator="cpu")


def test_on_the_command_line(reference, query, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    only_in_a_layer(reference, "umi").write_h5ad("reference.h5ad")
    query.write_h5ad("query.h5ad")
    options = ["--reference", "reference.h5ad", "--query", "query.h5ad", "--labels-key", "cell_type", "--layer", "umi"]
    assert main(["check", *options]) == 0
    assert main(["annotate", *options, "--out", "out.h5ad", "--max-epochs", "1", "--accelerator", "cpu"]) == 0
    assert "layer='umi' is not a layer of query" in capsys.readouterr().err
    assert ad.read_h5ad("out.h5ad").obs["transanno"].notna().all()
