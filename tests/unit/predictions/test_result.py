from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno.predictions._groups import UnknownGroups
from transanno.predictions._result import Predictions, check_unassigned_threshold

CLASSES = np.array(["B cell", "NK cell", "T cell"], dtype=object)
PROBABILITIES = np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.0, 0.1, 0.9], [0.5, 0.25, 0.25]])
INDICES = np.array([5, 0, 3, 2])


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.AnnData(np.arange(21.0).reshape(7, 3), obs=pd.DataFrame(index=[f"cell{i}" for i in range(7)]))


@pytest.fixture
def predictions(adata) -> Predictions:
    return Predictions(PROBABILITIES, CLASSES, INDICES, adata.obs_names)


def test_labels_are_the_most_probable_types_as_str(predictions):
    assert predictions.labels.dtype.kind == "U"
    assert predictions.labels.tolist() == ["T cell", "B cell", "T cell", "B cell"]


def test_frame_is_in_the_order_of_indices(predictions):
    frame = predictions.to_frame()
    assert list(frame.index) == ["cell5", "cell0", "cell3", "cell2"]
    assert list(frame.columns) == list(CLASSES)
    np.testing.assert_array_equal(frame, PROBABILITIES)


def test_written_columns(predictions, adata):
    predictions.write(adata, "found")
    assert list(adata.obs) == ["found", "found_confidence"]
    labels = adata.obs["found"]
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert list(labels.cat.categories) == ["B cell", "T cell"]  # only types that a cell has
    expected = pd.Series(["B cell", None, "B cell", "T cell", None, "T cell", None], index=adata.obs_names)
    assert labels.isna().equals(expected.isna())
    assert labels.dropna().astype(str).to_dict() == expected.dropna().to_dict()
    confidence = adata.obs["found_confidence"]
    np.testing.assert_array_equal(confidence, [0.6, np.nan, 0.5, 0.9, np.nan, 0.7, np.nan])


def test_writing_again_replaces(predictions, adata):
    predictions.write(adata, "found")
    Predictions(PROBABILITIES[:1], CLASSES, np.array([6]), adata.obs_names).write(adata, "found")
    assert adata.obs["found"].isna().sum() == 6
    assert adata.obs["found"].iloc[6] == "T cell"
    assert adata.obs["found_confidence"].notna().sum() == 1


def test_view_becomes_an_object_of_its_own(predictions, adata):
    whole = ad.AnnData(np.zeros((9, 3)), obs=pd.DataFrame(index=[f"cell{i}" for i in range(9)]))
    view = whole[:7]
    assert view.is_view
    predictions.write(view, "found")  # a warning would be an error
    assert not view.is_view
    assert view.obs["found"].notna().sum() == 4
    assert list(whole.obs) == []


class TestThreshold:
    def test_cells_below_it_are_unassigned(self, adata):
        predictions = Predictions(PROBABILITIES, CLASSES, INDICES, adata.obs_names, unassigned_threshold=0.6)
        # 0.6 is not below 0.6
        assert predictions.labels.tolist() == ["T cell", "B cell", "T cell", "Unassigned"]
        predictions.write(adata, "found")
        assert list(adata.obs["found"].cat.categories) == ["B cell", "T cell", "Unassigned"]
        assert adata.obs["found"].iloc[2] == "Unassigned"
        assert adata.obs["found_confidence"].iloc[2] == 0.5
        np.testing.assert_array_equal(predictions.to_frame(), PROBABILITIES)

    def test_without_such_cells_there_is_no_such_category(self, adata):
        Predictions(PROBABILITIES, CLASSES, INDICES, adata.obs_names, unassigned_threshold=0.5).write(adata, "found")
        assert list(adata.obs["found"].cat.categories) == ["B cell", "T cell"]

    @pytest.mark.parametrize("threshold", [None, 0, 0.5, 1, np.float32(0.5)])
    def test_allowed(self, threshold):
        check_unassigned_threshold(threshold, CLASSES)

    def test_the_name_is_only_taken_if_it_is_used(self):
        check_unassigned_threshold(None, ["Unassigned"])
        with pytest.raises(ValueError, match="unassigned_threshold=0.5 calls cells without a type"):
            check_unassigned_threshold(0.5, ["Unassigned"])


class TestUnknown:
    """Cells 5, 3 and 2 are unlike the reference, the first two of them alike."""

    NOVELTY, IS_NOVEL = np.array([4.5, -0.5, 3.5, 2.5]), np.array([True, False, True, True])

    def predictions(self, adata, codes, table, **kwargs) -> Predictions:
        groups = UnknownGroups(np.array(codes), pd.DataFrame(table, columns=["group", "n_cells", "markers"]))
        return Predictions(
            PROBABILITIES, CLASSES, INDICES, adata.obs_names, novelty=self.NOVELTY, is_novel=self.IS_NOVEL,
            groups=groups, **kwargs,
        )  # fmt: skip

    def test_written_columns(self, adata):
        table = [["Unknown 1, like T cell", 2, "g1, g2"]]
        predictions = self.predictions(adata, [0, -1, 0, -1], table)
        predictions.write(adata, "found")
        assert list(adata.obs) == ["found", "found_confidence", "found_novelty", "found_group"]
        assert list(adata.obs["found"].cat.categories) == ["B cell", "Unknown"]
        assert adata.obs["found"].astype(object).iloc[INDICES].tolist() == ["Unknown", "B cell", "Unknown", "Unknown"]
        np.testing.assert_array_equal(adata.obs["found_novelty"].iloc[INDICES], self.NOVELTY)
        assert adata.obs["found_novelty"].notna().sum() == 4
        group = adata.obs["found_group"]
        assert list(group.cat.categories) == ["Unknown 1, like T cell"]
        assert np.flatnonzero(group.notna()).tolist() == [3, 5]
        assert list(adata.uns) == ["found_groups"]
        assert adata.uns["found_groups"].to_numpy().tolist() == table

    def test_probabilities_stay(self, adata):
        predictions = self.predictions(adata, [-1] * 4, [])
        np.testing.assert_array_equal(predictions.to_frame(), PROBABILITIES)
        np.testing.assert_array_equal(predictions.confidence, PROBABILITIES.max(axis=1))

    def test_unknown_comes_before_unassigned_and_empty_before_both(self, adata):
        is_empty = np.array([True, False, False, False])
        predictions = self.predictions(adata, [-1] * 4, [], unassigned_threshold=0.95, is_empty=is_empty)
        assert predictions.labels.tolist() == ["Unassigned", "Unassigned", "Unknown", "Unknown"]
        assert predictions.categories.tolist() == [*CLASSES, "Unassigned", "Unknown"]

    @pytest.mark.parametrize(
        ("codes", "table"), [([0, -1, 0, -1], [["Unknown 1, like T cell", 2, ""]]), ([-1] * 4, [])]
    )
    def test_round_trip_through_a_file(self, codes, table, adata, tmp_path):
        self.predictions(adata, codes, table).write(adata, "found")
        adata.write_h5ad(tmp_path / "a.h5ad")
        again = ad.read_h5ad(tmp_path / "a.h5ad")
        assert list(again.uns["found_groups"]) == ["group", "n_cells", "markers"]
        assert again.uns["found_groups"].to_numpy().tolist() == table
        assert isinstance(again.obs["found_group"].dtype, pd.CategoricalDtype)
        np.testing.assert_array_equal(again.obs["found_group"].isna(), adata.obs["found_group"].isna())

    def test_a_view_gets_them_and_its_parent_does_not(self, adata):
        view = adata[:]
        assert view.is_view
        self.predictions(adata, [0, -1, 0, -1], [["Unknown 1", 2, ""]]).write(view, "found")
        assert not view.is_view
        assert list(view.uns) == ["found_groups"]
        assert not adata.uns
        assert list(adata.obs) == []


def test_no_cells(adata):
    nothing = Predictions(np.zeros((0, 3)), CLASSES, np.zeros(0, dtype=int), adata.obs_names)
    assert nothing.labels.tolist() == []
    assert nothing.to_frame().shape == (0, 3)
    nothing.write(adata, "found")
    assert adata.obs["found"].isna().all()
    assert adata.obs["found_confidence"].isna().all()


def test_classes_that_are_no_str(adata):
    predictions = Predictions(PROBABILITIES, np.array([1, 2, 3], dtype=object), INDICES, adata.obs_names)
    assert predictions.labels.tolist() == ["3", "1", "3", "1"]
    assert list(predictions.to_frame().columns) == ["1", "2", "3"]


def test_round_trip_through_a_file(predictions, adata, tmp_path):
    predictions.write(adata, "found")
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert again.obs["found"].astype(object).dropna().tolist() == ["B cell", "B cell", "T cell", "T cell"]
