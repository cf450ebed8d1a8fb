from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from transanno.data._batches import check_known_batches, encode_batches
from transanno.data._counts import MatrixCounts
from transanno.models._fields import BatchField, GeneLayerField, LabelsField

N_OBS, N_VARS = 17, 11
LABELS = np.array(["T", "B", "NK", "B", "T", "Unknown", "B", "T", "T", "NK", "B", "B", "T", "B", "B", "T", "B"])
BATCHES = np.array(["s2", "s1", "s3"])[np.arange(N_OBS) % 3]


@pytest.fixture
def adata() -> ad.AnnData:
    x = np.random.default_rng(0).poisson(2.0, size=(N_OBS, N_VARS)).astype("float32")
    obs = pd.DataFrame({"y": LABELS, "batch": BATCHES}, index=[f"c{i}" for i in range(N_OBS)])
    return ad.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_VARS)]))


def labels_field() -> LabelsField:
    return LabelsField("labels", "y", "Unknown")


def batch_field(key: str | None = "batch") -> BatchField:
    return BatchField("batch", key)


def codes(adata: ad.AnnData, field) -> list[int]:
    return adata.obs[field.attr_key].tolist()


class TestGeneLayerField:
    @pytest.mark.parametrize("layer", [None, "counts"])
    def test_registers_x_or_a_layer(self, layer, adata):
        adata.layers["counts"] = adata.X * 2
        field = GeneLayerField("X", layer)
        state = field.register_field(adata)
        assert list(state[field.COLUMN_NAMES_KEY]) == list(adata.var_names)
        expected = adata.X if layer is None else adata.layers["counts"]
        assert (field.get_field_data(adata) != expected).nnz == 0

    def test_unknown_layer(self, adata):
        with pytest.raises(KeyError, match="layer='count' is not a layer of adata"):
            GeneLayerField("X", "count").register_field(adata)

    def test_no_x(self, adata):
        adata.X = None
        with pytest.raises(ValueError, match=r"adata\.X is None"):
            GeneLayerField("X", None).register_field(adata)

    @pytest.mark.parametrize("layer", [None, "counts"])
    def test_values_that_are_no_counts_are_named(self, layer, adata):
        adata.layers["counts"] = adata.X.copy()
        (adata.X if layer is None else adata.layers["counts"]).data[3] = -1
        name = r"adata\.X" if layer is None else r'adata\.layers\["counts"\]'
        with pytest.raises(ValueError, match=f"{name} are negative"):
            GeneLayerField("X", layer).register_field(adata)

    def test_repeated_genes(self, adata):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions of anndata warn here
            adata.var_names = ["g0", *adata.var_names[:-1]]
        with pytest.raises(ValueError, match="1 gene name"):
            GeneLayerField("X", None).register_field(adata)

    def test_no_cells(self, adata):
        with pytest.raises(ValueError, match="0 cells"):
            GeneLayerField("X", None).register_field(adata[:0].copy())

    def test_same_genes_are_accepted_and_other_orders_and_genes_not(self, adata):
        field = GeneLayerField("X", None)
        state = field.register_field(adata)
        field.transfer_field(state, adata.copy())
        with pytest.raises(ValueError, match="11 genes, the model 11, 11 names are shared"):
            field.transfer_field(state, adata[:, ::-1].copy())
        with pytest.raises(ValueError, match="7 genes, the model 11, 7 names are shared"):
            field.transfer_field(state, adata[:, :7].copy())

    @pytest.mark.parametrize("bad_row", [None, 0, 16])
    def test_backed_data_are_checked_to_the_last_row(self, bad_row, adata, tmp_path, monkeypatch):
        monkeypatch.setattr(MatrixCounts.blocks, "__defaults__", (5,))
        x = adata.X.toarray()
        x[5:10] = 0  # a chunk without counts is no error
        if bad_row is not None:
            x[bad_row, 2] = np.nan
        adata.X = sp.csr_matrix(x)
        adata.write_h5ad(tmp_path / "a.h5ad")
        backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        try:
            if bad_row is None:
                GeneLayerField("X", None).register_field(backed)
            else:
                with pytest.raises(ValueError, match="NaN"):
                    GeneLayerField("X", None).register_field(backed)
        finally:
            backed.file.close()


class TestLabelsField:
    def test_codes_are_sorted_and_unlabeled_is_last(self, adata):
        field = labels_field()
        state = field.register_field(adata)
        assert list(state["categorical_mapping"]) == ["B", "NK", "T", "Unknown"]
        assert codes(adata, field) == [{"B": 0, "NK": 1, "T": 2, "Unknown": 3}[label] for label in LABELS]
        assert adata.obs["y"].tolist() == LABELS.tolist()

    def test_unlabeled_is_last_without_unlabeled_cells(self, adata):
        adata.obs["y"] = "aardvark"
        adata.obs.loc["c3", "y"] = "Zebra"
        assert list(labels_field().register_field(adata)["categorical_mapping"]) == ["Zebra", "aardvark", "Unknown"]

    def test_unused_categories_are_no_classes(self, adata):
        adata.obs["y"] = pd.Categorical(LABELS, categories=["B", "DC", "NK", "T", "Unknown"])
        state = labels_field().register_field(adata)
        assert list(state["categorical_mapping"]) == ["B", "NK", "T", "Unknown"]
        assert "DC" in adata.obs["y"].cat.categories

    @pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
    def test_missing_values_are_unlabeled(self, missing, adata):
        column = adata.obs["y"].astype(object)
        column.iloc[:3] = missing
        adata.obs["y"] = column
        field = labels_field()
        with pytest.warns(UserWarning, match=r"3 cells have no value in obs\['y'\]"):
            field.register_field(adata)
        assert codes(adata, field)[:3] == [3, 3, 3]
        assert adata.obs["y"].isna().sum() == 3

    def test_numbers_are_read_as_strings(self, adata):
        adata.obs["y"] = np.arange(N_OBS) % 3
        state = labels_field().register_field(adata)
        assert list(state["categorical_mapping"]) == ["0", "1", "2", "Unknown"]
        assert adata.obs["y"].dtype.kind == "i"

    def test_missing_column(self, adata):
        with pytest.raises(KeyError, match="labels_key='celltype' is not a column"):
            LabelsField("labels", "celltype", "Unknown").register_field(adata)

    def test_transfer_keeps_the_codes(self, adata):
        field = labels_field()
        state = field.register_field(adata)
        query = adata[LABELS == "T"].copy()
        assert list(field.transfer_field(state, query)["categorical_mapping"]) == ["B", "NK", "T", "Unknown"]
        assert set(codes(query, field)) == {2}

    def test_transfer_without_the_column(self, adata):
        field = labels_field()
        state = field.register_field(adata)
        query = adata.copy()
        del query.obs["y"]
        field.transfer_field(state, query)
        assert set(codes(query, field)) == {3}
        assert "y" not in query.obs

    def test_transfer_of_unknown_labels_lists_them(self, adata):
        field = labels_field()
        state = field.register_field(adata)
        query = adata.copy()
        query.obs["y"] = np.where(LABELS == "T", "CD4 T", LABELS)
        with pytest.raises(
            ValueError, match=r"1 of the labels in obs\['y'\] are unknown to the model: 'CD4 T'\. "
        ) as e:
            field.transfer_field(state, query)
        assert "The model knows 'B', 'NK', 'T'." in str(e.value)


class TestBatchField:
    def test_codes_are_sorted(self, adata):
        field = batch_field()
        state = field.register_field(adata)
        assert list(state["categorical_mapping"]) == ["s1", "s2", "s3"]
        assert codes(adata, field) == [{"s1": 0, "s2": 1, "s3": 2}[batch] for batch in BATCHES]

    def test_without_key_there_is_one_batch(self, adata):
        field = batch_field(None)
        state = field.register_field(adata)
        assert len(state["categorical_mapping"]) == 1
        assert set(codes(adata, field)) == {0}
        query = adata.copy()
        assert len(field.transfer_field(state, query, extend_categories=True)["categorical_mapping"]) == 1

    def test_missing_value_is_a_batch_of_its_own(self, adata):
        column = adata.obs["batch"].astype(object)
        column.iloc[0] = np.nan
        adata.obs["batch"] = column
        field = batch_field()
        assert list(field.register_field(adata)["categorical_mapping"]) == ["missing", "s1", "s2", "s3"]
        assert codes(adata, field)[0] == 0
        assert adata.obs["batch"].isna().sum() == 1

    def test_missing_column(self, adata):
        with pytest.raises(KeyError, match="batch_key='sample' is not a column"):
            batch_field("sample").register_field(adata)

    def test_new_batches_are_appended_or_an_error(self, adata):
        field = batch_field()
        state = field.register_field(adata)
        query = adata.copy()
        query.obs["batch"] = np.where(BATCHES == "s2", "a0", BATCHES)
        with pytest.raises(ValueError, match="1 batches are unknown to the model: 'a0'"):
            field.transfer_field(state, query)
        new = field.transfer_field(state, query, extend_categories=True)
        assert list(new["categorical_mapping"]) == ["s1", "s2", "s3", "a0"]
        assert codes(query, field) == [{"s1": 0, "s3": 2, "a0": 3}[batch] for batch in query.obs["batch"]]
        assert list(state["categorical_mapping"]) == ["s1", "s2", "s3"]

    def test_query_without_the_column_is_one_new_batch(self, adata):
        field = batch_field()
        state = field.register_field(adata)
        query = adata.copy()
        del query.obs["batch"]
        new = field.transfer_field(state, query, extend_categories=True)
        assert list(new["categorical_mapping"]) == ["s1", "s2", "s3", "query"]
        assert set(codes(query, field)) == {3}

    def test_encode_batches_equals_the_field(self, adata):
        field = batch_field()
        state = field.register_field(adata)
        found = encode_batches(adata.obs, state["categorical_mapping"], batch_key="batch")
        assert found.dtype == np.int64
        assert found.tolist() == codes(adata, field)
        assert encode_batches(adata.obs, state["categorical_mapping"], batch_key=None).tolist() == [0] * N_OBS

    def test_many_unknown_batches_are_counted(self):
        with pytest.raises(ValueError, match=r"7 batches are unknown .*'b4', … \(7 in all\)\. The model knows 's'\."):
            check_known_batches(np.array([f"b{i}" for i in range(7)], dtype=object), ["s"])
