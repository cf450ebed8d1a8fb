"""Labels that mean none, and cells of which nothing is known."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from transanno import TransAnno, pp, tl
from transanno._constants import UNASSIGNED_CATEGORY, UNLABELED_CATEGORY
from transanno.cli import main
from transanno.data._no_label import is_no_label, no_label_text

WORDS = [
    "nan",
    "NA",
    "N/A",
    "<NA>",
    "None",
    "null",
    "",
    " ",
    "unknown",
    "Unknown",
    "UNKNOWN ",
    "unlabeled",
    "Unlabeled",
]
WORDS += ["unassigned", "Unassigned", "not_assigned", "unannotated", "?", "-"]


def with_word(adata, word, dtype=object):
    labels = adata.obs["cell_type"].astype(object).to_numpy(copy=True)
    labels[::4] = word
    adata.obs["cell_type"] = pd.Series(labels, index=adata.obs_names).astype(dtype)
    return adata


@pytest.mark.parametrize("word", WORDS)
def test_usual_spellings_of_no_label_are_known(word):
    assert is_no_label(word)
    text = no_label_text(np.array(["a", word, word, "b"], dtype=object), UNLABELED_CATEGORY, where="obs['x']")
    assert (f"{word!r} (2)" in text) == (word != UNLABELED_CATEGORY)


@pytest.mark.parametrize(
    "name", ["T cell", "NK", "natural killer", "nasal", "non-classical monocyte", "x", "other", "3"]
)
def test_types_are_no_such(name):
    assert not is_no_label(name)


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_setup_warns_by_name_and_the_cure_works(dtype, reference):
    with_word(reference, "nan", dtype)
    with pytest.warns(UserWarning, match=r"25 cells .*'nan' \(25\).*unlabeled_category='nan'"):
        TransAnno.setup_anndata(reference, "cell_type")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        TransAnno.setup_anndata(reference, "cell_type", unlabeled_category="nan")


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_several_spellings_are_set_to_nan_as_the_message_says(dtype, reference):
    labels = reference.obs["cell_type"].astype(object).to_numpy(copy=True)
    labels[::4], labels[1::4] = "NA", "unassigned"
    reference.obs["cell_type"] = pd.Series(labels, index=reference.obs_names).astype(dtype)
    with pytest.warns(UserWarning, match="'NA'.*'unassigned'") as caught:
        TransAnno.setup_anndata(reference, "cell_type")
    message = str(caught[0].message)
    code = message[message.index("adata.obs['cell_type'] = ") : message.index("; NaN and")]
    exec(code, {"adata": reference})
    with pytest.warns(UserWarning, match="49 cells have no value"):
        TransAnno.setup_anndata(reference, "cell_type")


def test_annotate_check_and_the_command_line_warn(reference, query, fast, tmp_path, capsys):
    with_word(reference, "unassigned")
    with pytest.warns(UserWarning, match=r"'unassigned' \(25\)") as caught:
        tl.annotate(query, reference, labels_key="cell_type", max_epochs=1, **fast)
    assert sum("usually means none" in str(warning.message) for warning in caught) == 1
    assert pp.check(query, reference, labels_key="cell_type")["labels"].severity == "warning"
    reference.write_h5ad(tmp_path / "reference.h5ad")
    query.write_h5ad(tmp_path / "query.h5ad")
    options = [
        "--reference",
        tmp_path / "reference.h5ad",
        "--query",
        tmp_path / "query.h5ad",
        "--labels-key",
        "cell_type",
    ]
    more = ["--out", tmp_path / "out.h5ad", "--max-epochs", "1", "--accelerator", "cpu"]
    assert main([str(option) for option in ["annotate", *options, *more]]) == 0
    assert capsys.readouterr().err.count("usually means none") == 1


def test_types_that_differ_by_white_space_or_case_are_named(reference):
    with_word(reference, "T cell ")
    with pytest.warns(UserWarning, match="differ by white space or case alone: 'T cell', 'T cell '"):
        TransAnno.setup_anndata(reference, "cell_type")


class TestEmptyCells:
    @pytest.fixture
    def emptied(self, query):
        x = query.X.toarray()
        x[:5] = 0
        query.X = sp.csr_matrix(x)
        return query

    def test_are_unassigned_with_the_confidence_of_a_guess(self, emptied, model):
        with pytest.warns(UserWarning, match="5 of 61 cells have no count"):
            tl.annotate(emptied, model=model, accelerator="cpu")
        assert (emptied.obs["transanno"][:5] == UNASSIGNED_CATEGORY).all()
        assert (emptied.obs["transanno"][5:] != UNASSIGNED_CATEGORY).all()
        np.testing.assert_allclose(emptied.obs["transanno_confidence"][:5], 1 / 3)

    def test_in_what_predict_returns(self, emptied, model):
        with pytest.warns(UserWarning, match="5 of 61"):
            frame = model.predict(emptied, soft=True, key_added=None)
        np.testing.assert_allclose(frame[:5], 1 / 3)
        with pytest.warns(UserWarning, match="2 of 3"):
            labels = model.predict(emptied, indices=[3, 4, 5], key_added=None)
        assert (labels == UNASSIGNED_CATEGORY).tolist() == [True, True, False]

    def test_other_cells_are_predicted_as_without_them(self, emptied, model):
        expected = model.predict(emptied[5:].copy(), key_added=None)
        with pytest.warns(UserWarning, match="5 of 61"):
            np.testing.assert_array_equal(model.predict(emptied, key_added=None)[5:], expected)

    def test_a_type_of_that_name(self, emptied, reference, small, fast):
        reference.obs["cell_type"] = reference.obs["cell_type"].replace("B cell", UNASSIGNED_CATEGORY)
        with pytest.warns(UserWarning, match="usually means none"):
            TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, **fast)
        with pytest.warns(UserWarning, match="5 of 61"):
            assert (model.predict(emptied)[:5] == UNASSIGNED_CATEGORY).all()
