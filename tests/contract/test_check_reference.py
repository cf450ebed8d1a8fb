"""What `pp.check` says of a reference is what `tl.annotate` does with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

from transanno import cli, pp, tl
from transanno.data import _find_counts

RUN = {"max_epochs": 1, "accelerator": "cpu", "calibrate": False, "enable_progress_bar": False}


def scaled(reference: ad.AnnData) -> None:
    x = reference.X.toarray()
    reference.X = (x - x.mean(axis=0)) / (x.std(axis=0) + 0.1)


def scaled_beside_counts(reference: ad.AnnData) -> None:
    reference.layers["raw_counts"] = reference.X.copy()
    scaled(reference)


def unrestorable(reference: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    reference.X = np.log1p(rng.gamma(1.0, 1.0, size=reference.shape)).astype("float32")


def with_value(value: float, column: int = 5) -> Callable[[ad.AnnData], None]:
    def change(reference: ad.AnnData) -> None:
        x = reference.X.toarray()
        x[7, column] = value
        reference.X = sp.csr_matrix(x)

    return change


def only_zeros(reference: ad.AnnData) -> None:
    reference.X = sp.csr_matrix(reference.shape, dtype="float32")


def without_x(reference: ad.AnnData) -> None:
    del reference.X


def repeated_genes(reference: ad.AnnData) -> None:
    reference.var_names = [reference.var_names[1], *reference.var_names[1:]]


def labeled(label: object, n_others: int = 0) -> Callable[[ad.AnnData], None]:
    def change(reference: ad.AnnData) -> None:
        labels = reference.obs["cell_type"].astype(object)
        labels.iloc[n_others:] = label
        labels.iloc[:n_others] = "B cell"
        reference.obs["cell_type"] = labels

    return change


def logged(reference: ad.AnnData) -> None:
    sc.pp.normalize_total(reference, target_sum=1e4)
    sc.pp.log1p(reference)


def fractional(reference: ad.AnnData) -> None:
    reference.X.data[::5] -= 0.3


def counts_beside(reference: ad.AnnData) -> None:
    reference.layers["counts"] = reference.X.copy()
    scaled(reference)


REFUSED = {
    "scaled": (scaled, "reference scale"),
    "scaled beside counts": (scaled_beside_counts, "reference scale"),
    "logs that no counts follow from": (unrestorable, "reference scale"),
    "one negative value": (with_value(-1.0), "reference scale"),
    "one NaN": (with_value(np.nan), "reference scale"),
    "one infinite value": (with_value(np.inf), "reference scale"),
    "all zeros": (only_zeros, "reference scale"),
    "no X": (without_x, "reference scale"),
    "repeated genes": (repeated_genes, "reference genes"),
    "labels are NaN": (labeled(np.nan), "labels"),
    "labels are Unlabeled": (labeled("Unlabeled"), "labels"),
    "labels are unknown": (labeled("unknown"), "labels"),
    "one type": (labeled("B cell"), "labels"),
    "one type among NaN": (labeled(np.nan, 11), "labels"),
}
ACCEPTED = {
    "counts": lambda reference: None,
    "logged": logged,
    "fractional": fractional,
    "counts in a layer beside scaled values": counts_beside,
    "two types, one a usual word for none": labeled("unknown", 11),
}


def core(text: str) -> str:
    """Without what depends on how it is called: annotate says "the reference's gene vocabulary" where it compares genes first."""
    return text.partition(" has ")[2] if "gene name(s)" in text else text


@pytest.mark.filterwarnings("ignore::transanno.checks._warn.TransAnnoWarning")
@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
# Of annotate, which normalizes negative values before it refuses them; that check does not is tested below.
@pytest.mark.filterwarnings("ignore:invalid value encountered in log1p:RuntimeWarning")
class TestVerdict:
    @pytest.mark.parametrize(("change", "finding"), REFUSED.values(), ids=REFUSED)
    def test_what_annotate_refuses_is_an_error_in_its_words(self, change, finding, query, reference):
        change(reference)
        report = pp.check(query, reference, labels_key="cell_type")
        with pytest.raises(ValueError) as refused:
            tl.annotate(query, reference, labels_key="cell_type", **RUN)
        assert not report.is_usable
        assert [found.name for found in report.findings if found.severity == "error"] == [finding]
        assert core(str(refused.value)) in report[finding].found

    @pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
    def test_what_annotate_accepts_is_usable(self, change, query, reference):
        change(reference)
        assert pp.check(query, reference, labels_key="cell_type").is_usable
        tl.annotate(query, reference, labels_key="cell_type", **RUN)

    def test_a_single_cell_is_refused(self, query, reference):
        reference = reference[:1].copy()
        report = pp.check(query, reference, labels_key="cell_type")
        with pytest.raises(ValueError, match="1 cell type") as refused:
            tl.annotate(query, reference, labels_key="cell_type", **RUN)
        assert str(refused.value) in report["labels"].found
        assert not report.is_usable

    def test_a_reference_that_scipy_cannot_read_is_refused(self, query, reference, monkeypatch):
        """Damaged pointers of rows may end the process; this is what scipy raises where it notices."""
        detect_scale = _find_counts.detect_scale

        def detecting(matrix, **kwargs):
            if matrix.shape[0] == 97:
                raise RuntimeError("vector::_M_default_append")
            return detect_scale(matrix, **kwargs)

        monkeypatch.setattr(_find_counts, "detect_scale", detecting)
        report = pp.check(query, reference, labels_key="cell_type")
        with pytest.raises(RuntimeError, match="vector"):
            tl.annotate(query, reference, labels_key="cell_type", **RUN)
        assert report["reference scale"].found.startswith("reference.X cannot be read (RuntimeError: vector::")
        assert (report.is_usable, report["scale"].severity) == (False, "ok")

    def test_values_of_genes_that_the_query_lacks_do_not_matter(self, query, reference):
        with_value(np.nan, column=52)(reference)
        query = query[:, :47].copy()
        assert pp.check(query, reference, labels_key="cell_type").is_usable
        tl.annotate(query, reference, labels_key="cell_type", **RUN)

    def test_a_reference_without_the_batches_is_refused(self, query, reference):
        del reference.obs["batch"]
        report = pp.check(query, reference, labels_key="cell_type", batch_key="batch")
        with pytest.raises(KeyError) as refused:
            tl.annotate(query, reference, labels_key="cell_type", batch_key="batch", **RUN)
        assert report["reference batches"].found == str(refused.value)
        assert not report.is_usable

    def test_batches_may_be_named_in_a_list(self, query, reference):
        report = pp.check(query, reference, labels_key="cell_type", batch_key=["batch"])
        assert report["batches"].severity == "ok"
        tl.annotate(query, reference, labels_key="cell_type", batch_key=["batch"], **RUN)
        with pytest.raises(TypeError, match="the name of one column of obs"):
            pp.check(query, reference, batch_key=["batch", "cell_type"])


@pytest.mark.parametrize(("change", "finding"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_a_bad_reference_brings_no_warning_and_the_rest_of_the_report(change, finding, query, reference):
    change(reference)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = pp.check(query, reference, labels_key="cell_type", batch_key="batch")
    ours = [str(warning.message) for warning in caught if "not unique" not in str(warning.message)]
    assert ours == []
    assert report["scale"].severity == report["batches"].severity == report["empty cells"].severity == "ok"
    assert report.n_shared_genes == (52 if finding == "reference genes" else 53)
    assert len(report.cells) == 61


def test_what_is_repaired_in_a_reference_is_told(query, reference):
    logged(reference)
    report = pp.check(query, reference, labels_key="cell_type")
    assert report["reference scale"].severity == "note"
    assert "restored from it" in report["reference scale"].found
    assert report["scale"].severity == "ok"
    assert len(report.class_coverage) == 3


def test_the_command_line_refuses_a_bad_reference(query, reference, tmp_path, capsys):
    scaled(reference)
    query.write_h5ad(tmp_path / "query.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    files = [
        "--query",
        str(tmp_path / "query.h5ad"),
        "--reference",
        str(tmp_path / "reference.h5ad"),
        "--labels-key",
        "cell_type",
    ]
    assert cli.main(["check", *files]) == 2
    assert "cannot be annotated as it is: reference scale" in capsys.readouterr().err


def test_a_layer_of_the_query_alone_leaves_x_of_the_reference(query, reference):
    query.layers["umi"] = query.X.copy()
    assert pp.check(query, reference, layer="umi", labels_key="cell_type").is_usable
    scaled(reference)
    report = pp.check(query, reference, layer="umi", labels_key="cell_type")
    assert report["reference scale"].found.startswith("reference.X looks scaled")


def test_a_lazy_reference(reference, query, tmp_path):
    for name in ("dask", "xarray"):
        pytest.importorskip(name)
    reference.write_h5ad(tmp_path / "reference.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "reference.h5ad")
    assert str(pp.check(query, lazy, labels_key="cell_type")) == str(pp.check(query, reference, labels_key="cell_type"))
