"""Groups of cells that are called Unknown, planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from transanno.data._counts import MatrixCounts
from transanno.predictions import _groups
from transanno.predictions._groups import UnknownGroups, find_groups
from transanno.predictions._neighbors import Surroundings

COLUMNS = ["group", "n_cells", "nearest_type", "share_nearest", "novelty", "markers"]
GENES = np.array([f"gene{i}" for i in range(23)])


def ring(n_cells: int, start: int = 0, k: int = 6) -> np.ndarray:
    """-> neighbors of cells in a circle ``(n_cells, k)``, half of them on either side, so that all are mutual."""
    steps = np.r_[-k // 2 : 0, 1 : k // 2 + 1]
    return start + (np.arange(n_cells)[:, None] + steps) % n_cells


@dataclass
class Planted:
    """Clusters of cells one after the other, each on a ring of its own."""

    sizes: tuple[int, ...]
    """known cells of A, of B, and then new clusters"""
    called: tuple[str, ...] = ()
    """what the new clusters are called"""
    markers: tuple[tuple[int, ...], ...] = ()
    """genes that are higher in the new clusters, the first most"""
    n_other: int = 0
    """columns beyond the genes"""
    seed: int = 1
    read: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.cluster = np.repeat(np.arange(len(self.sizes)), self.sizes)
        mean = np.full((len(self.cluster), len(GENES)), 20.0)
        for i, genes in enumerate(self.markers):
            for rank, gene in enumerate(genes):
                mean[self.cluster == 2 + i, gene] *= 6.0 / (rank + 1)
        self.counts = rng.poisson(np.hstack([mean, np.full((len(mean), self.n_other), 100.0)])).astype("float32")
        self.is_novel = self.cluster >= 2
        self.types = np.array(["A", "B", *self.called], dtype=object)[self.cluster]
        self.novelty = rng.normal(size=len(self.cluster)) + 4.0 * self.is_novel
        starts = np.cumsum([0, *self.sizes[:-1]])
        self.neighbors = np.vstack([ring(n, start) for n, start in zip(self.sizes, starts, strict=True)])

    @property
    def rows(self) -> Callable[[np.ndarray], sp.csr_matrix]:
        def rows(positions: np.ndarray) -> sp.csr_matrix:
            self.read.extend(positions.tolist())
            return sp.csr_matrix(self.counts[positions])

        return rows

    def groups(self, **changed) -> UnknownGroups:
        given = {"is_novel": self.is_novel, "novelty": self.novelty, "called": self.types, "neighbors": self.neighbors}
        return find_groups(**given | changed, rows=self.rows, genes=GENES)


@pytest.fixture
def two() -> Planted:
    """Known cells of A and B, 17 new cells that are called B and 31 that are called A."""
    return Planted((60, 40, 17, 31), ("B", "A"), ((11,), (7, 3)))


class TestGroups:
    def test_two_clusters_are_two_groups_the_largest_first(self, two):
        two.types[two.cluster == 3] = np.repeat(["A", "B"], [27, 4])
        found = two.groups()
        expected = np.select([two.cluster == 3, two.cluster == 2], [0, 1], -1)
        np.testing.assert_array_equal(found.codes, expected)
        table = found.table
        assert list(table) == COLUMNS
        assert table["group"].tolist() == ["Unknown 1, like A", "Unknown 2, like B"]
        assert table["n_cells"].tolist() == [31, 17]
        assert table["nearest_type"].tolist() == ["A", "B"]
        assert table["share_nearest"].tolist() == [27 / 31, 1.0]
        assert table["novelty"].tolist() == [np.median(two.novelty[expected == code]) for code in (0, 1)]
        assert table["markers"].tolist() == ["gene7, gene3", "gene11"]

    def test_clusters_are_found_by_the_neighbors_of_their_counts(self, two):
        found = two.groups(
            neighbors=Surroundings.of(MatrixCounts(sp.csr_matrix(two.counts)), np.arange(len(two.counts))).neighbors
        )
        assert found.table["nearest_type"].tolist() == ["A", "B"]
        assert (found.codes[two.cluster == 3] == 0).mean() > 0.9
        assert (found.codes[two.cluster == 2] == 1).mean() > 0.9
        assert (found.codes[two.cluster < 2] == -1).all()
        assert found.table["markers"].tolist() == ["gene7, gene3", "gene11"]

    @pytest.mark.parametrize(("n_cells", "n_groups"), [(9, 0), (10, 1)])
    def test_so_few_cells_are_no_group(self, n_cells, n_groups):
        planted = Planted((60, 40, n_cells), ("A",), ((7,),))
        found = planted.groups()
        assert len(found.table) == n_groups
        assert (found.codes == 0).sum() == n_groups * n_cells
        assert list(found.table) == COLUMNS

    def test_without_novel_cells_the_table_is_empty(self, two):
        found = two.groups(is_novel=np.zeros(len(two.cluster), dtype=bool))
        assert (found.codes == -1).all()
        assert found.table.shape == (0, 6)
        assert list(found.table) == COLUMNS
        assert two.read == []

    def test_groups_of_the_same_size_are_in_the_order_of_their_cells(self):
        found = Planted((60, 40, 13, 13), ("B", "A")).groups()
        assert found.table["nearest_type"].tolist() == ["B", "A"]

    def test_types_that_are_as_frequent_in_a_group_are_in_their_order(self):
        planted = Planted((60, 40, 20), ("A",))
        planted.types[planted.cluster == 2] = np.repeat(["B", "A"], 10)
        table = planted.groups().table
        assert table["nearest_type"].tolist() == ["A"]
        assert table["share_nearest"].tolist() == [0.5]

    def test_neighbors_of_one_side_join_nothing(self, two):
        """All cells of one cluster have one of the other as a neighbor, whose own neighbors are others."""
        neighbors = two.neighbors.copy()
        neighbors[two.cluster == 2, 0] = np.flatnonzero(two.cluster == 3)[:17]
        assert two.groups(neighbors=neighbors).table["n_cells"].tolist() == [31, 17]

    def test_one_mutual_pair_joins_two(self, two):
        neighbors = two.neighbors.copy()
        one, other = np.flatnonzero(two.cluster == 2)[4], np.flatnonzero(two.cluster == 3)[4]
        neighbors[one, 0], neighbors[other, 0] = other, one
        assert two.groups(neighbors=neighbors).table["n_cells"].tolist() == [48]

    def test_known_cells_in_between_join_nothing(self):
        """One ring, of which two arcs are novel."""
        planted = Planted((60, 0))
        is_novel = np.isin(np.arange(60), np.r_[5:18, 30:45])
        found = planted.groups(is_novel=is_novel)
        assert found.table["n_cells"].tolist() == [15, 13]
        assert (found.codes[30:45] == 0).all()
        assert (found.codes[5:18] == 1).all()
        assert (found.codes[~is_novel] == -1).all()

    def test_what_is_given_stays_as_it_is(self, two):
        before = two.is_novel.copy(), two.novelty.copy(), two.types.copy(), two.neighbors.copy(), two.counts.copy()
        two.groups()
        after = two.is_novel, two.novelty, two.types, two.neighbors, two.counts
        assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))


class TestMarkers:
    def test_are_the_five_highest_at_most(self):
        planted = Planted((60, 40, 31), ("A",), ((2, 9, 4, 13, 21, 17, 6),))
        for gene, factor in zip((2, 9, 4, 13, 21, 17, 6), (9, 7, 5, 4, 3, 1, 1), strict=True):
            planted.counts[planted.is_novel, gene] = np.random.default_rng(gene).poisson(20.0 * factor, size=31)
        assert planted.groups().table["markers"].tolist() == ["gene2, gene9, gene4, gene13, gene21"]

    def test_genes_that_are_lower_are_none(self):
        planted = Planted((60, 40, 31), ("A",))
        planted.counts[planted.is_novel, 7] = 0.0
        markers = planted.groups().table["markers"][0]
        assert "gene7" not in markers.split(", ")

    def test_cells_like_the_known_ones_have_none(self):
        """But for one in twenty groups."""
        found = [Planted((60, 40, 31), ("A",), seed=seed).groups().table["markers"][0] for seed in range(40)]
        assert sum(markers != "" for markers in found) <= 4

    @pytest.mark.parametrize(("n_known", "markers"), [(0, ""), (1, ""), (7, "gene7")])
    def test_without_known_cells_of_the_type_there_are_none(self, n_known, markers):
        planted = Planted((60, n_known, 31), ("B",), ((7,),))
        assert planted.groups().table["markers"].tolist() == [markers]

    def test_only_known_cells_of_the_nearest_type_are_compared_with(self, two):
        """Cells of B have the markers, too, but the group is like A."""
        two.counts[two.cluster == 1, 7] *= 8.0
        assert two.groups().table["markers"][0] == "gene7, gene3"
        assert set(two.cluster[two.read[: 60 + 31]]) == {0, 3}

    def test_counts_beyond_the_genes_are_no_markers(self):
        planted = Planted((60, 40, 31), ("A",), ((7,),), n_other=2)
        planted.counts[planted.is_novel, -2:] *= 30.0
        markers = planted.groups().table["markers"][0]
        assert "gene7" in markers or markers == ""
        assert set(markers.split(", ")) <= {*GENES, ""}

    def test_counts_beyond_the_genes_are_part_of_the_total(self):
        """A cell that has the same counts and fewer of other genes has larger shares of all."""
        planted = Planted((60, 40, 31), ("A",), n_other=1)
        planted.counts[~planted.is_novel, -1] += 2000.0
        assert len(planted.groups().table["markers"][0].split(", ")) == 5

    def test_depth_of_sequencing_is_no_marker(self):
        planted = Planted((60, 40, 31), ("A",), ((7,),))
        expected = planted.groups().table["markers"].tolist()
        planted.counts[planted.is_novel] *= 4.0
        assert planted.groups().table["markers"].tolist() == expected == ["gene7"]

    def test_genes_without_counts_are_none(self):
        planted = Planted((60, 40, 31), ("A",), ((7,),))
        planted.counts[:, 2] = 0.0  # a warning of scanpy would be an error
        assert planted.groups().table["markers"].tolist() == ["gene7"]

    def test_large_groups_are_compared_by_a_sample(self, two, monkeypatch):
        monkeypatch.setattr(_groups, "_MAX_COMPARED", 11)
        first, second = two.groups(), two.groups()
        assert first.table["markers"].tolist() == ["gene7, gene3", "gene11"]
        assert first.table["n_cells"].tolist() == [31, 17]
        pd.testing.assert_frame_equal(first.table, second.table)
        assert len(two.read) == 2 * 2 * 2 * 11
        assert two.read[: len(two.read) // 2] == two.read[len(two.read) // 2 :]
