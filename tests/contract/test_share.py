"""Models that are shared: written with a card, uploaded, found again by name, and checked."""

from __future__ import annotations

import json
import re
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno import TransAnno, metrics, tl
from transanno.cli import main

ABOUT = {"license": "cc-by-4.0", "description": "Simulated cells of two batches, see **tests**."}
REPO = "organization/simulated"


@pytest.fixture
def calibrated(reference, small, fast) -> TransAnno:
    """Model that stores what held-out cells showed."""
    TransAnno.setup_anndata(reference, "cell_type", batch_key="batch")
    model = TransAnno(reference, **small)
    model.train(2, train_size=0.6, plan_kwargs={"lr": 5e-3}, **fast)
    return model


@pytest.fixture
def shared(model, tmp_path):
    """Folder of a model with its card."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub, the extra 'hub', is not installed")
    model.save_for_hub(tmp_path / "shared", **ABOUT)
    return tmp_path / "shared"


def tables(card: str) -> dict[str, list[str]]:
    """-> rows of the tables of a card, without their header, by the heading above them."""
    sections = re.split(r"^#+ (.*)$", card, flags=re.MULTILINE)[1:]
    rows = {
        name: re.findall(r"^\| .* \|$", text, flags=re.MULTILINE)
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }
    return {name: [row for row in found[1:] if "---" not in row] for name, found in rows.items()}


class TestCard:
    def test_counts_genes_license_and_description_are_the_models_and_the_authors(self, shared, model, reference):
        from huggingface_hub import ModelCard

        card = ModelCard.load(shared / "README.md")
        assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "transanno")
        assert "model_cls_name:TransAnno" in card.data.tags
        assert ABOUT["description"] in card.text
        assert "the counts of 53 genes" in card.text
        counts = reference.obs["cell_type"].iloc[model.train_indices].value_counts()
        assert counts.sum() < reference.n_obs
        assert tables(card.text)["Cell types"] == [f"| {name} | {counts[name]} |" for name in model.labels]

    def test_held_out_cells_are_scored_as_they_were_called(self, calibrated, tmp_path):
        pytest.importorskip("huggingface_hub")
        positions = np.asarray(calibrated.validation_indices)
        truth = calibrated.adata.obs["cell_type"].iloc[positions]
        calibrated.save_for_hub(tmp_path / "shared", **ABOUT)
        card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
        confusion = calibrated.calibration_.confusion
        assert confusion.sum() == len(positions) == calibrated.calibration_.n_cells
        for row, name in zip(tables(card)["Held-out cells of the same data"], calibrated.labels, strict=True):
            code = calibrated.labels.tolist().index(name)
            recall = confusion[code, code] / (truth == name).sum()
            assert row.split(" | ")[1] == str((truth == name).sum())
            assert row.split(" | ")[3] == f"{recall:.3f}"

    def test_what_is_not_stored_is_said_and_not_made_up(self, model, tmp_path):
        pytest.importorskip("huggingface_hub")
        model.label_counts_ = model.calibration_ = None
        model.save_for_hub(tmp_path / "shared", **ABOUT)
        card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
        assert "is not stored with the model" in card
        assert "The model is not calibrated" in card
        assert "No scores on other data were given" in card
        assert tables(card)["Cell types"] == [f"| {name} |" for name in model.labels]

    def test_scores_are_those_that_were_given(self, model, query, tmp_path):
        pytest.importorskip("huggingface_hub")
        truth = query.obs["cell_type"].replace("NK cell", "mast cell")
        scores = metrics.evaluate(truth, model.predict(query), labels=model.labels)
        model.save_for_hub(tmp_path / "shared", evaluation={"Other laboratory": scores}, **ABOUT)
        card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
        assert f"Accuracy {scores.summary['accuracy']:.3f}, macro-F1 {scores.summary['macro_f1']:.3f}" in card
        n_unseen = (truth == "mast cell").sum()
        assert f"Left out are {n_unseen} cells of types that it does not know and cannot name: mast cell." in card
        assert len(tables(card)["Other laboratory"]) == 2

    def test_a_bar_in_a_name_does_not_break_the_table(self, reference, small, fast, tmp_path):
        pytest.importorskip("huggingface_hub")
        reference.obs["cell_type"] = reference.obs["cell_type"].replace("T cell", "T|NKT")
        TransAnno.setup_anndata(reference, "cell_type")
        model = TransAnno(reference, **small)
        model.train(1, train_size=1.0, **fast)
        model.save_for_hub(tmp_path / "shared", **ABOUT)
        assert r"| T\|NKT | " in (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"license": "CC BY 4.0"}, "license='CC BY 4.0'. Allowed: an identifier"),
            ({"license": None}, "license=None"),
            ({"description": " "}, "description=' '. Allowed: a text"),
        ],
    )
    def test_what_authors_have_to_say_is_required(self, change, message, model, tmp_path):
        pytest.importorskip("huggingface_hub")
        with pytest.raises(ValueError, match=re.escape(message)):
            model.save_for_hub(tmp_path / "shared", **{**ABOUT, **change})
        assert not (tmp_path / "shared").exists()

    def test_scores_of_another_kind_are_refused(self, model, tmp_path):
        pytest.importorskip("huggingface_hub")
        with pytest.raises(TypeError, match=r"evaluation\['x'\] is a float. Allowed: .*evaluate"):
            model.save_for_hub(tmp_path / "shared", evaluation={"x": 0.9}, **ABOUT)


class TestHub:
    def test_round_trip(self, local_hub, model, query):
        expected = model.predict(query, soft=True, key_added=None)
        assert model.push_to_hub(REPO, **ABOUT) == f"https://huggingface.co/{REPO}/commit/1"
        found = TransAnno.from_hub(REPO, accelerator="cpu")
        pd.testing.assert_frame_equal(found.predict(query, soft=True), expected, check_exact=True)
        assert f'TransAnno.from_hub("{REPO}")' in (local_hub / REPO / "README.md").read_text(encoding="utf-8")

    def test_no_cell_leaves_the_computer(self, local_hub, model):
        model.push_to_hub(REPO, **ABOUT)
        names = {path.name for path in (local_hub / REPO).iterdir()}
        files = {"model.pt", "genes.txt", "card.json", "README.md", "SHA256SUMS", "_scvi_required_metadata.json"}
        assert names == files

    @pytest.mark.parametrize("name", [REPO, "folder", "registered"])
    def test_annotate_and_load_query_data_take_its_name(self, name, local_hub, model, query, tmp_path, monkeypatch):
        model.push_to_hub(REPO, **ABOUT)
        monkeypatch.chdir(tmp_path)
        model.save(tmp_path / "folder")
        (tmp_path / "models.toml").write_text('[registered]\nfolder = "folder"\n', encoding="utf-8")
        monkeypatch.setenv("TRANSANNO_MODELS", "models.toml")
        expected = model.predict(query, key_added=None)
        tl.annotate(query, model=name, refine=False, accelerator="cpu")
        assert query.obs["transanno"].tolist() == expected.tolist()
        assert TransAnno.load_query_data(query, name, accelerator="cpu").labels.tolist() == model.labels.tolist()

    def test_command_line(self, local_hub, model, query, tmp_path, capsys):
        model.push_to_hub(REPO, **ABOUT)
        query.write_h5ad(tmp_path / "query.h5ad")
        options = ["--model", REPO, "--query", str(tmp_path / "query.h5ad")]
        assert main(["annotate", *options, "--out", str(tmp_path / "out.h5ad"), "--accelerator", "cpu"]) == 0
        assert ad.read_h5ad(tmp_path / "out.h5ad").obs["transanno"].notna().all()
        assert main(["check", *options]) == 0
        assert "accuracy" in capsys.readouterr().out

    def test_offline_says_what_was_looked_for_where_and_what_to_do(self, local_hub, tmp_path, capsys):
        options = ["--model", "organization/other", "--query", "query.h5ad", "--out", str(tmp_path / "out.h5ad")]
        assert main(["annotate", *options]) == 2
        message = " ".join(capsys.readouterr().err.split())
        for part in (
            "'organization/other' is neither a folder nor the name of a registered model",
            "Names available: 'blood'",
            "repository 'organization/other' of the Hugging Face Hub could not be fetched",
            "no network in tests",
            "pass its folder",
        ):
            assert part in message

    def test_file_that_was_changed_is_refused(self, local_hub, model):
        model.push_to_hub(REPO, **ABOUT)
        with (local_hub / REPO / "genes.txt").open("a") as file:
            file.write("GENE99\n")
        with pytest.raises(
            ValueError, match="genes.txt of the repository 'organization/simulated'.*not as SHA256SUMS says"
        ):
            TransAnno.from_hub(REPO)

    def test_repository_without_checksums_is_refused(self, local_hub, model):
        model.save(local_hub / REPO)
        with pytest.raises(ValueError, match="holds no SHA256SUMS.*push_to_hub"):
            TransAnno.from_hub(REPO)

    def test_model_that_is_saved_over_a_shared_one_is_not_taken_for_damaged(self, shared, model):
        model.label_counts_ = None
        model.save(shared, overwrite=True)
        assert TransAnno.from_hub(shared, accelerator="cpu").label_counts_ is None

    def test_pickle_is_refused_whatever_its_checksum(self, local_hub, shared, model):
        import torch

        from transanno.saving._checksums import write_checksums

        torch.save({"model_state_dict": {}, "metadata": model}, shared / "model.pt")
        write_checksums(shared, ["model.pt"])
        with pytest.raises(ValueError, match="holds more than data"):
            TransAnno.from_hub(shared)

    def test_name_of_a_repository_is_checked_before_anything_is_uploaded(self, local_hub, model):
        with pytest.raises(
            ValueError, match="repo_id='simulated'. Allowed: the name of a repository.*organization/name"
        ):
            model.push_to_hub("simulated", **ABOUT)

    def test_refusal_of_the_hub_is_a_clear_error(self, local_hub, model, monkeypatch):
        import huggingface_hub

        def refuse(*args, **kwargs):
            raise OSError("403 Forbidden")

        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
        with pytest.raises(
            ValueError, match="could not be uploaded to 'organization/simulated'.*403 Forbidden.*hf auth login"
        ):
            model.push_to_hub(REPO, **ABOUT)

    def test_untrained_model_is_not_shared(self, reference, small, tmp_path):
        TransAnno.setup_anndata(reference, "cell_type")
        with pytest.raises(RuntimeError, match="train"):
            TransAnno(reference, **small).save_for_hub(tmp_path / "shared", **ABOUT)


def test_without_huggingface_hub_the_extra_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    extra = re.escape('pip install "transanno[hub]"')
    with pytest.raises(ImportError, match=extra):
        model.save_for_hub(tmp_path / "shared", **ABOUT)
    with pytest.raises(ImportError, match=f"neither a folder nor.*{extra}"):
        TransAnno.from_hub(REPO)
    options = ["--model", REPO, "--query", "query.h5ad", "--out", str(tmp_path / "out.h5ad")]
    assert main(["annotate", *options]) == 2
    assert "transanno[hub]" in capsys.readouterr().err
    model.save(tmp_path / "model")
    TransAnno.from_hub(tmp_path / "model")  # a folder needs nothing


def test_scvi_hub_reads_what_is_shared(shared, model, query, reference):
    hub = pytest.importorskip("scvi.hub", reason="scvi.hub needs huggingface_hub", exc_type=ImportError)
    expected = model.predict(query, soft=True, key_added=None)
    found = hub.HubModel(str(shared))
    assert found.metadata.model_parent_module == "transanno"
    assert found.model_card.data.license == "cc-by-4.0"
    found.load_model(adata=reference)  # scvi-tools' hub wants data
    pd.testing.assert_frame_equal(found.model.predict(query, soft=True), expected, check_exact=True)


def test_card_of_a_saved_model_counts_cells(model, reference, tmp_path):
    model.save(tmp_path / "model")
    card = json.loads((tmp_path / "model" / "card.json").read_text(encoding="utf-8"))
    assert card["n_cells_per_type"] == reference.obs["cell_type"].iloc[model.train_indices].value_counts().to_dict()


@pytest.mark.network
def test_hub_says_that_there_is_no_such_repository():
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match="could not be fetched"):
        TransAnno.from_hub("scvi-tools/there-is-no-such-model-of-transanno")
