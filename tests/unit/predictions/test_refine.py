from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from transanno.data._counts import MatrixCounts
from transanno.predictions import _refine, _regression
from transanno.predictions._neighbors import Surroundings, nearest_neighbors, principal_components
from transanno.predictions._refine import average_neighbors, learn_from_query, refine_probabilities

N_OBS, N_VARS, N_LABELS = 211, 37, 3


def make_probabilities(n_obs: int = N_OBS, seed: int = 0, alpha=(0.3, 0.5, 0.9)) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(alpha, size=n_obs)


def make_counts(n_obs: int = N_OBS, n_vars: int = N_VARS) -> sp.csr_matrix:
    rng = np.random.default_rng(1)
    mean = rng.gamma(0.5, 8.0, size=(n_obs, n_vars))
    return sp.csr_matrix(rng.poisson(mean).astype("float32"))


def surroundings_of(counts: sp.csr_matrix) -> Surroundings | None:
    return Surroundings.of(MatrixCounts(counts), np.arange(counts.shape[0]))


class TestAverageNeighbors:
    @pytest.fixture
    def neighbors(self) -> np.ndarray:
        return nearest_neighbors(principal_components(make_counts()))

    def test_is_half_of_the_neighbors(self, neighbors):
        probabilities = make_probabilities(alpha=(0.8, 0.6, 0.7))
        called = probabilities.argmax(axis=1)
        assert (np.bincount(called) >= 30).all()
        expected = np.stack(
            [0.5 * probabilities[i] + 0.5 * probabilities[neighbors[i]].mean(axis=0) for i in range(N_OBS)]
        )
        averaged = average_neighbors(probabilities, neighbors)
        np.testing.assert_allclose(averaged, expected)
        np.testing.assert_allclose(averaged.sum(axis=1), 1.0)

    def test_calls_of_a_rare_type_are_kept(self, neighbors):
        probabilities = make_probabilities(alpha=(1.0, 2.0, 0.2))
        called = probabilities.argmax(axis=1)
        assert 0 < (called == 2).sum() < 30 <= (called == 0).sum()
        before = probabilities.copy()
        averaged = average_neighbors(probabilities, neighbors)
        np.testing.assert_array_equal(averaged[called == 2], before[called == 2])
        assert not np.isclose(averaged[called < 2], before[called < 2]).all(axis=1).any()
        np.testing.assert_allclose(averaged.sum(axis=1), 1.0)

    @pytest.mark.parametrize(("n_rare", "is_kept"), [(29, True), (30, False)])
    def test_bound_of_rare(self, n_rare, is_kept, neighbors):
        probabilities = np.where(np.arange(N_OBS)[:, None] < n_rare, [0.1, 0.1, 0.8], [0.7, 0.2, 0.1])
        averaged = average_neighbors(probabilities, neighbors)
        assert np.array_equal(averaged[:n_rare], probabilities[:n_rare]) == is_kept


def clusters(n_per_type: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Types that lie apart in the first components -> components ``(n_obs, 7)``, codes."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(n_per_type)), n_per_type))
    components = rng.normal(size=(len(codes), 7))
    components[:, :2] += 8 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])[codes]
    return components, codes


def calls(codes: np.ndarray, n_labels: int, *, sure: float = 0.9) -> np.ndarray:
    """-> probabilities that call every cell its code, more or less surely."""
    rng = np.random.default_rng(1)
    confidence = rng.uniform(sure - 0.1, sure, size=(len(codes), 1))
    return np.where(np.eye(n_labels)[codes] == 1, confidence, (1 - confidence) / (n_labels - 1))


class TestLearnFromQuery:
    def test_wrong_calls_are_mended_by_the_other_cells(self):
        components, codes = clusters((61, 53, 47))
        given = codes.copy()
        wrong = np.random.default_rng(2).permutation(len(codes))[:9]
        given[wrong] = (given[wrong] + 1) % 3
        probabilities = calls(given, 3)
        probabilities[wrong] = 0.2 + 0.4 * np.eye(3)[given[wrong]]  # of wrong calls one is less sure
        refined = learn_from_query(probabilities, components)
        assert (probabilities.argmax(axis=1) != codes).sum() == 9
        assert (refined.argmax(axis=1) == codes).all()

    def test_is_the_geometric_mean_with_a_regression_on_the_surest(self, monkeypatch):
        """By hand where all cells are equally sure, so that the surest of a type are its first."""
        monkeypatch.setattr(_regression, "_TOLERANCE", 1e-8)
        components, codes = clusters((31, 29, 23))
        probabilities = np.full((len(codes), 3), 0.1) + 0.7 * np.eye(3)[codes]
        surest = [np.flatnonzero(codes == code)[: int(np.ceil(0.8 * n))] for code, n in enumerate((31, 29, 23))]
        chosen = np.sort(np.concatenate(surest))
        scaled = components / components[:, 0].std()
        plain = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-8).fit(scaled[chosen], codes[chosen])
        learned = np.maximum(plain.predict_log_proba(scaled), -12)
        expected = softmax((np.log(probabilities) + learned) / 2, axis=1)
        np.testing.assert_allclose(learn_from_query(probabilities, components), expected, rtol=1e-5)

    @pytest.mark.parametrize("n_labels", [3, 7])
    def test_rows_sum_to_one(self, n_labels):
        components, codes = clusters((31, 29, 23))
        refined = learn_from_query(calls(codes, n_labels), components)
        assert refined.shape == (len(codes), n_labels)
        assert (refined > 0).all()
        np.testing.assert_allclose(refined.sum(axis=1), 1.0)

    def test_types_that_no_cell_is_called_stay_improbable(self):
        components, codes = clusters((31, 29, 23))
        probabilities = calls(2 * codes, 6, sure=0.8)  # types 1, 3 and 5 are nobody's
        before = probabilities[:, [1, 3, 5]]
        refined = learn_from_query(probabilities, components)
        assert (refined[:, [1, 3, 5]] < before / 4).all()
        np.testing.assert_array_equal(refined.argmax(axis=1), 2 * codes)

    def test_no_probability_becomes_zero_or_nan(self):
        components, codes = clusters((31, 29, 23))
        refined = learn_from_query(np.eye(3)[codes], 1e3 * components)
        assert np.isfinite(refined).all()
        np.testing.assert_allclose(refined.sum(axis=1), 1.0)

    def test_common_types_have_no_advantage(self):
        """A cell between two types, called neither, though one has ten times as many cells."""
        components, codes = clusters((300, 30))
        components = np.r_[components, [[4.0, 0, 0, 0, 0, 0, 0]]]
        probabilities = np.r_[calls(codes, 2), [[0.5, 0.5]]]
        assert 0.25 < learn_from_query(probabilities, components)[-1, 0] < 0.75

    def test_one_type_teaches_nothing(self):
        components, _ = clusters((31, 29, 23))
        probabilities = make_probabilities(83, alpha=(1, 1, 1))
        probabilities = np.sort(probabilities, axis=1)  # the last is everybody's
        assert learn_from_query(probabilities, components) is probabilities

    def test_identical_cells_teach_nothing(self):
        probabilities = make_probabilities(61, alpha=(1, 1, 1))
        assert learn_from_query(probabilities, np.ones((61, 5))) is probabilities

    def test_scale_of_the_components_does_not_matter(self):
        components, codes = clusters((31, 29, 23))
        found = [learn_from_query(calls(codes, 3), scale * components) for scale in (1.0, 1e-3)]
        np.testing.assert_allclose(*found, rtol=1e-6)

    def test_the_least_sure_cells_of_every_type_are_left_out(self):
        _, codes = clusters((31, 29, 23))
        probabilities = calls(codes, 3)
        chosen = _refine._surest_cells(probabilities)
        assert np.bincount(codes[chosen]).tolist() == [25, 24, 19]
        confidence = probabilities.max(axis=1)
        for code in range(3):
            of_type = np.flatnonzero(codes == code)
            left_out = np.setdiff1d(of_type, chosen)
            assert confidence[left_out].max() < confidence[np.intersect1d(of_type, chosen)].min()

    def test_so_many_cells_of_a_type_are_learned_from(self, monkeypatch):
        monkeypatch.setattr(_refine, "_MAX_LEARNED", 11)
        _, codes = clusters((31, 29, 3))
        first, second = (_refine._surest_cells(calls(codes, 3)) for _ in range(2))
        assert np.bincount(codes[first]).tolist() == [11, 11, 3]
        np.testing.assert_array_equal(first, second)


class TestRefineProbabilities:
    def test_is_its_parts_in_order(self):
        probabilities, counts = make_probabilities(alpha=(0.8, 0.6, 0.7)), make_counts()
        components = principal_components(counts)
        averaged = average_neighbors(probabilities, nearest_neighbors(components))
        refined = refine_probabilities(probabilities, surroundings_of(counts))
        np.testing.assert_array_equal(refined, learn_from_query(averaged, components))
        np.testing.assert_allclose(refined.sum(axis=1), 1.0)

    def test_given_probabilities_stay_as_they_are(self):
        probabilities = make_probabilities()
        before = probabilities.copy()
        refine_probabilities(probabilities, surroundings_of(make_counts()))
        np.testing.assert_array_equal(probabilities, before)

    @pytest.mark.parametrize(("n_obs", "is_same"), [(1, True), (49, True), (50, False), (61, False)])
    def test_few_cells_are_left_alone(self, n_obs, is_same):
        probabilities = make_probabilities(n_obs, alpha=(9.0, 1.0, 1.0))
        refined = refine_probabilities(probabilities, surroundings_of(make_counts(n_obs)))
        assert (refined is probabilities) == is_same
        assert np.array_equal(refined, probabilities) == is_same
