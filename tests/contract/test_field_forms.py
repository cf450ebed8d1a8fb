"""Other forms of what users bring: found by trying, each with what is right."""

from __future__ import annotations

import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from transanno import TransAnno, TransAnnoPretrain, TransAnnoWarning, tl
from transanno.data._gene_ids import other_features
from transanno.data._no_label import is_no_label, no_label_text

QUICK = {"max_epochs": 1, "accelerator": "cpu", "calibrate": False, "enable_progress_bar": False}


@pytest.mark.parametrize(
    "word",
    "-1;not determined;n.d.;nd;N.A;undef;(unassigned);[unknown];unassigned (low);Unknown_1;unknown?;unlabeled cells;not classified;"
    "NotAssigned;no call;unresolved;missing value;NA_character_;#REF!;#VALUE!;#N/A;(blank);...;*;pd.NA;<undefined>;'nan';UNK.;"
    "not reported;not provided;unclear;Ambiguous;Unlabelled cell;not-assigned;No-call".split(";"),
)
def test_spellings_of_no_label(word):
    assert is_no_label(word)


@pytest.mark.parametrize(
    "name",
    "CD4 T (naive);NK-1;NaT cell;Cluster 1;1;0;MAIT;B;ND1 high;Unknown-like B cell;mDC (DC2);n.T;DN T;γδ T;Tr1;type 2".split(
        ";"
    ),
)
def test_names_of_types(name):
    assert not is_no_label(name)


@pytest.mark.parametrize("values", [np.random.default_rng(0).random(97).round(3), [f"ACGT-{i}" for i in range(97)]])
def test_labels_that_are_no_types(values, reference):
    reference.obs["cell_type"] = np.asarray(values).astype(str)
    with pytest.warns(TransAnnoWarning, match=r"holds 9\d labels for 97 cells.*Name the column of the types"):
        TransAnno.setup_anndata(reference, "cell_type")
    assert no_label_text(np.repeat([f"type {i}" for i in range(30)], 3), "Unlabeled", where="x") == ""


@pytest.mark.parametrize("side", ["reference", "query"])
@pytest.mark.parametrize("key", ["cell_type", "batch"])
def test_a_repeated_column_is_named_before_training(side, key, reference, query, monkeypatch):
    changed = {"reference": reference, "query": query}[side]
    changed.obs = pd.concat([changed.obs, changed.obs[[key]]], axis=1)
    monkeypatch.setattr(TransAnno, "train", None)
    with pytest.raises(ValueError, match=rf"{side}.obs has 2 columns called '{key}'.*columns.duplicated"):
        tl.annotate(query, reference, labels_key="cell_type", batch_key="batch", **QUICK)


def test_a_repeated_column_where_a_model_is_set_up(reference):
    reference.obs = pd.concat([reference.obs, reference.obs[["cell_type"]]], axis=1)
    with pytest.raises(ValueError, match="adata.obs has 2 columns called 'cell_type'"):
        TransAnno.setup_anndata(reference, "cell_type")


@pytest.mark.parametrize("value", ["r.h5ad", None, pd.DataFrame({"a": [1]}), sp.csr_matrix((2, 2)), [1]], ids=type)
def test_models_are_set_up_with_an_anndata(value):
    with pytest.raises(TypeError, match="adata is (a |None).*Allowed: an AnnData"):
        TransAnno.setup_anndata(value, "cell_type")
    with pytest.raises(TypeError, match="adata is (a |None).*Allowed: an AnnData"):
        TransAnnoPretrain.setup_anndata(value)


@pytest.mark.filterwarnings("ignore")  # of mudata
def test_models_are_set_up_with_a_modality(reference):
    with pytest.raises(TypeError, match=r'adata is a MuData.*mdata\["rna"\]'):
        TransAnno.setup_anndata(mudata.MuData({"rna": reference}), "cell_type")


@pytest.mark.parametrize(
    ("column", "type_"),
    [
        *((column, "Antibody Capture") for column in ("Type", "modality", "assay", "feature_types_x", "feature_types-RNA")),
        *(("feature_types", name) for name in ("Spike-in", "VDJ", "Blank Codeword", "Negative Control Probe", b"Antibody Capture")),
        *(("feature_types", name) for name in ("Unassigned Codeword", "Genomic Control", "Deprecated Codeword")),
    ],
)  # fmt: skip
def test_types_of_features(column, type_):
    gene = b"Gene Expression" if isinstance(type_, bytes) else "Gene Expression"
    var = pd.DataFrame({column: [gene, type_, gene]}, index=["A", "B", "C"])
    assert other_features(var).tolist() == [False, True, False]


def test_biotypes_are_of_genes():
    var = pd.DataFrame({"type": ["protein_coding", "lncRNA", "antisense", "TR_V_gene"]}, index=list("ABCD"))
    assert not other_features(var).any()


@pytest.mark.parametrize(
    ("name", "is_other"),
    [
        *((name, True) for name in ("ERCC-00002", "ERCC.00171", "AB_CD3", "protein:CD3", "anti-human_CD3", "sgRNA_1", "CMO301")),
        *((name, True) for name in ("NegControlProbe_00042", "BLANK_0006", "UnassignedCodeword_1", "chr1:1-500")),
        *((name, False) for name in ("ERCC1", "ERCC6L", "ERCC-1", "ABCA1", "ANTXR1", "ANTI", "PROTEIN", "CHRM1", "NEGR1", "ABHD1")),
    ],
)  # fmt: skip
def test_names_of_features(name, is_other):
    assert other_features(pd.DataFrame(index=[name, "CD3D"])).tolist() == [is_other, False]


def test_spike_ins_are_not_in_a_model(reference, query):
    def with_spikes(adata: ad.AnnData) -> ad.AnnData:
        spikes = sp.csr_matrix(
            np.random.default_rng(0).negative_binomial(0.3, 0.002, (adata.n_obs, 20)), dtype=np.float32
        )
        names = [*adata.var_names, *(f"ERCC-{i:05d}" for i in range(20))]
        return ad.AnnData(sp.hstack([adata.X, spikes], format="csr"), obs=adata.obs, var=pd.DataFrame(index=names))

    query = with_spikes(query)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransAnnoWarning)
        model = tl.annotate(query, with_spikes(reference), labels_key="cell_type", n_top_genes=41, **QUICK)
    assert not model.genes.str.startswith("ERCC").any()


def test_no_x_names_the_layer_that_holds_counts(reference, query):
    model = tl.fit_reference(reference, "cell_type", **QUICK)
    layers = {"spliced": query.X * 0.5, "raw_counts": query.X}
    with pytest.raises(ValueError, match=r"query has no X\..*raw counts: pass layer=.raw_counts."):
        tl.annotate(ad.AnnData(None, obs=query.obs, var=query.var, layers=layers), model=model)
    with pytest.raises(ValueError, match=r"query has no X\. query has no other layer and no raw"):
        tl.annotate(ad.AnnData(None, obs=query.obs, var=query.var), model=model)
    with pytest.raises(ValueError, match=r"adata.X is None\..*raw_counts"):
        TransAnno.setup_anndata(ad.AnnData(None, obs=query.obs, var=query.var, layers=layers), "cell_type")


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning:tests")
def test_repeated_names_of_cells_are_nobody_s_business(reference, query):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Observation names are not unique")
        reference.obs_names, query.obs_names = ["a"] * reference.n_obs, ["a"] * query.n_obs
    tl.annotate(query, reference, labels_key="cell_type", **QUICK)
    assert query.obs["transanno"].notna().all()


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_a_session_that_differentiates_nothing(context, reference, query):
    expected = query.copy()
    tl.annotate(expected, reference, labels_key="cell_type", **QUICK)
    with context():
        tl.annotate(query, reference, labels_key="cell_type", **QUICK)
    np.testing.assert_array_equal(query.obs["transanno_confidence"], expected.obs["transanno_confidence"])


def test_a_session_whose_tensors_are_elsewhere(reference, query):
    expected = query.copy()
    tl.annotate(expected, reference, labels_key="cell_type", **QUICK)
    torch.set_default_device("meta")  # as "cuda", which is not on every machine
    try:
        tl.annotate(query, reference, labels_key="cell_type", **QUICK)
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)
    np.testing.assert_array_equal(query.obs["transanno_confidence"], expected.obs["transanno_confidence"])


@pytest.mark.parametrize("key", ["cell_type", "batch"])
def test_labels_and_batches_are_not_replaced(key, reference, query):
    before = query.obs.copy()
    with pytest.raises(ValueError, match=f"key_added='{key}' is the column that .*_key names"):
        tl.annotate(query, reference, labels_key="cell_type", batch_key="batch", key_added=key, **QUICK)
    pd.testing.assert_frame_equal(query.obs, before)


def _ids(suffix: str = "") -> list[str]:
    return [f"ENSG{i:011d}{suffix}" for i in range(53)]


@pytest.mark.parametrize(
    ("column", "query_names", "query_column"),
    [
        (_ids(".3"), _ids(), None),
        (_ids(), _ids(".7"), None),
        ([f"hg19_GENE{i:02d}" for i in range(53)], None, None),
        ([f"gene{i:02d}" for i in range(53)], None, None),
        (_ids(), [str(i) for i in range(53)], _ids()),
        (_ids(".1"), [str(i) for i in range(53)], _ids(".2")),
    ],
    ids=["versions", "versions of the query", "genome", "case", "column of both", "versions in columns of both"],
)
def test_names_in_a_column_of_the_reference(column, query_names, query_column, reference, query):
    expected = query.copy()
    tl.annotate(expected, reference, labels_key="cell_type", **QUICK)
    reference.var["gene_ids"] = column
    reference.var_names = [f"L{i}Q" for i in range(53)]
    if query_names is not None:
        query.var_names = query_names
    if query_column is not None:
        query.var["id"] = query_column
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TransAnnoWarning)
        tl.annotate(query, reference, labels_key="cell_type", **QUICK)
    assert any("its column var['gene_ids'], which holds 53 names" in str(warning.message) for warning in caught)
    np.testing.assert_allclose(query.obs["transanno_confidence"], expected.obs["transanno_confidence"], atol=1e-5)


def test_scaled_values_beside_logarithms_in_a_layer(reference, query):
    model = tl.fit_reference(reference, "cell_type", **QUICK)
    expected = model.predict(query.copy(), soft=True, key_added=None)
    x = query.X.toarray()
    query.layers["logcounts"] = sp.csr_matrix(np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4), dtype=np.float32)
    query.X = ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-8)).astype(np.float32)
    cure = r'layers\["logcounts"\] holds values that counts can be restored from: pass layer="logcounts"'
    with pytest.raises(ValueError, match=cure):
        tl.annotate(query, model=model)
    with pytest.warns(TransAnnoWarning, match="restored"):
        tl.annotate(query, model=model, layer="logcounts", refine=False)
    np.testing.assert_allclose(query.obs["transanno_confidence"], expected.max(axis=1), atol=1e-5)


@pytest.mark.parametrize("dtype", [">f4", ">i4"])
@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_matrix])
def test_sparse_counts_of_another_byte_order(dtype, container, reference, query):
    model = tl.fit_reference(reference, "cell_type", **QUICK)
    expected = model.predict(query.copy(), soft=True, key_added=None)
    query.X = container(query.X)
    query.X.data = query.X.data.astype(dtype)
    np.testing.assert_array_equal(model.predict(query, soft=True, key_added=None), expected)


@pytest.mark.parametrize("form", ["{}__chr{n}", '"{}"', "'{}'", "b'{}'", "{n}_{}", "{n}|{}"])
def test_what_programs_add_to_names(form, reference, query):
    model = tl.fit_reference(reference, "cell_type", **QUICK)
    expected = model.predict(query.copy(), soft=True, key_added=None)
    query.var_names = [form.format(name, n=n + 1) for n, name in enumerate(query.var_names)]
    with pytest.warns(TransAnnoWarning, match="genes were matched by names without what programs add"):
        np.testing.assert_array_equal(model.predict(query, soft=True, key_added=None), expected)
