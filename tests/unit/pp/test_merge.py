from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import pp


@pytest.fixture
def sources(make_adata) -> dict[str, ad.AnnData]:
    """41 cells without labels × genes 0..46, 31 cells × genes 5..52 in another order."""
    first, second = make_adata(41, seed=11), make_adata(31, seed=12, container=sp.csc_matrix, dtype="int64")
    del first.obs["cell_type"]
    first.obs["is_doublet"] = True
    return {"lung": first[:, :47].copy(), "trachea": second[:, :4:-1].copy()}


def counts_of(adata, genes) -> np.ndarray:
    frame = pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names)
    return frame.reindex(columns=genes, fill_value=0).to_numpy()


class TestGenes:
    def test_intersection_is_the_default(self, sources):
        merged = pp.merge(sources)
        genes = [f"GENE{i:02d}" for i in range(5, 47)]
        assert list(merged.var_names) == genes
        assert sp.issparse(merged.X) and merged.X.format == "csr"
        expected = np.concatenate([counts_of(adata, genes) for adata in sources.values()])
        np.testing.assert_array_equal(merged.X.toarray(), expected)
        assert (merged.var["n_sources"] == 2).all()

    def test_union_says_what_is_not_measured_everywhere(self, sources):
        with pytest.warns(UserWarning, match="11 of the 53 genes were not measured in all sources"):
            merged = pp.merge(sources, join="outer")
        assert list(merged.var_names) == [*sources["lung"].var_names, *(f"GENE{i}" for i in range(52, 46, -1))]
        expected = np.concatenate([counts_of(adata, merged.var_names) for adata in sources.values()])
        np.testing.assert_array_equal(merged.X.toarray(), expected)
        n_sources = [sum(gene in adata.var_names for adata in sources.values()) for gene in merged.var_names]
        assert list(merged.var["n_sources"]) == n_sources

    def test_placeholders_are_not_measured(self, sources):
        vocabulary = [f"GENE{i:02d}" for i in range(53)]
        aligned = {name: pp.align_genes(adata, vocabulary) for name, adata in sources.items()}
        merged, expected = pp.merge(aligned), pp.merge(sources)
        assert list(merged.var_names) == list(expected.var_names)
        np.testing.assert_array_equal(merged.X.toarray(), expected.X.toarray())
        assert "is_missing" not in merged.var

    def test_equal_genes_need_no_warning(self, make_adata):
        merged = pp.merge({"a": make_adata(7, seed=1), "b": make_adata(11, seed=2)}, join="outer")
        assert merged.shape == (18, 53)

    def test_hardly_a_shared_gene(self, sources):
        sources["trachea"].var_names = [f"ENSG{i:011d}" for i in range(48)]
        with pytest.raises(ValueError, match="share 0 genes.*'lung': GENE00.*'trachea': ENSG00000000000.*Ensembl"):
            pp.merge(sources, join="outer")


class TestCells:
    def test_columns_of_obs_are_kept(self, sources):
        merged = pp.merge(sources)
        assert list(merged.obs["source"]) == ["lung"] * 41 + ["trachea"] * 31
        assert isinstance(merged.obs["source"].dtype, pd.CategoricalDtype)
        assert merged.obs["cell_type"][:41].isna().all()
        assert list(merged.obs["cell_type"][41:]) == list(sources["trachea"].obs["cell_type"])
        assert list(merged.obs["batch"]) == [*sources["lung"].obs["batch"], *sources["trachea"].obs["batch"]]
        assert merged.obs["is_doublet"].isna().sum() == 31

    def test_unique_names_are_kept(self, sources):
        names = [name for adata in sources.values() for name in adata.obs_names]
        assert list(pp.merge(sources).obs_names) == names

    def test_other_names_become_unique(self, sources):
        for adata in sources.values():
            adata.obs_names = [f"AAAC{i}" for i in range(adata.n_obs)]
        merged = pp.merge(sources)
        assert merged.obs_names.is_unique
        assert [merged.obs_names[0], merged.obs_names[41]] == ["AAAC0-lung", "AAAC0-trachea"]

    def test_names_that_repeat_within_a_source(self, sources):
        sources["lung"].obs_names = ["AAAC0"] * 41
        merged = pp.merge(sources)
        assert merged.obs_names.is_unique
        assert list(merged.obs_names[:2]) == ["AAAC0-lung", "AAAC0-lung-1"]

    def test_result_can_be_written_and_used(self, sources, tmp_path):
        merged = pp.merge(sources, source_key="study")
        merged.write_h5ad(tmp_path / "merged.h5ad")
        assert list(ad.read_h5ad(tmp_path / "merged.h5ad").obs["study"]) == list(merged.obs["study"])
        processed = pp.preprocess(merged, min_genes=5, n_top_genes=17, batch_key="study")
        assert processed.n_vars == 17

    def test_sources_are_not_changed(self, sources, snapshot, changed):
        before = {name: snapshot(adata) for name, adata in sources.items()}
        merged = pp.merge(sources)
        merged.X.data[:] = 0
        assert [changed(before[name], adata) for name, adata in sources.items()] == [set(), set()]


class TestDuplicates:
    def test_cells_in_two_sources_are_mentioned(self, sources):
        lung = sources["lung"]
        copies = lung[[3, 5, 8]].copy()[:, ::-1].copy()  # other names, another order of genes
        copies.obs_names = ["x", "y", "z"]
        with pytest.warns(UserWarning, match=r"3 of 'lung', 3 of 'copies'.*leave it out of one"):
            merged = pp.merge({"lung": lung, "copies": copies})
        assert merged.n_obs == 44

    def test_within_a_source_and_empty_cells_are_not(self, sources):
        for name, adata in sources.items():
            counts = adata.X.toarray()
            counts[1] = counts[0]
            counts[2] = 0
            sources[name].X = sp.csr_matrix(counts)
        assert pp.merge(sources).n_obs == 72


class TestLayer:
    def test_counts_in_a_layer(self, sources):
        expected = pp.merge(sources).X.toarray()
        for adata in sources.values():
            adata.layers["counts"] = adata.X.copy()
            adata.X = adata.X.astype("float32")
            sc.pp.normalize_total(adata)
            sc.pp.log1p(adata)
        np.testing.assert_array_equal(pp.merge(sources, layer="counts").X.toarray(), expected)
        with pytest.raises(ValueError, match=r"sources\['lung'\].X looks log1p-normalized"):
            pp.merge(sources)

    def test_one_source_that_is_not_raw(self, sources):
        sources["trachea"].X = sources["trachea"].X.astype("float32")
        sc.pp.normalize_total(sources["trachea"], target_sum=1e4)
        with pytest.raises(ValueError, match=r"sources\['trachea'\].X looks normalized to 10000"):
            pp.merge(sources)

    def test_missing_layer(self, sources):
        with pytest.raises(KeyError, match=r"layer='counts' is not a layer of sources\['lung'\]"):
            pp.merge(sources, layer="counts")


class TestRefused:
    def test_arguments(self, sources):
        with pytest.raises(TypeError, match="sources is a list.*dictionary"):
            pp.merge(list(sources.values()))
        with pytest.raises(ValueError, match="holds 1 data sets; at least two"):
            pp.merge({"lung": sources["lung"]})
        with pytest.raises(ValueError, match="join='union'"):
            pp.merge(sources, join="union")
        with pytest.raises(ValueError, match="already has a column 'batch'"):
            pp.merge(sources, source_key="batch")

    def test_sources(self, sources, make_mdata):
        with pytest.raises(TypeError, match=r"sources\['b'\] is a MuData"):
            pp.merge({**sources, "b": make_mdata()})
        with pytest.raises(ValueError, match=r"sources\['b'\] has no X"):
            pp.merge({**sources, "b": ad.AnnData(obs=sources["lung"].obs, var=sources["lung"].var)})
