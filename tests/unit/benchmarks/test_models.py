"""The models of `python -m benchmarks models`: what is shipped is what was judged, and the guide says what was found."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from benchmarks import models
from benchmarks._data import RESULTS, ROOT

from transanno.saving._checksums import check_checksums, sha256_of


@pytest.fixture
def results() -> dict:
    found = json.loads((RESULTS / "models.json").read_text(encoding="utf-8"))
    return {row["name"]: row for row in found["models"]}


def test_shipped_model_is_whole_and_small(results):
    folder = models.SHIPPED / models.SHIPPED_NAME
    check_checksums(folder, source="the package")
    registry = tomllib.loads((models.SHIPPED / "models.toml").read_text(encoding="utf-8"))
    assert registry == {"blood": {"folder": "blood", "sha256": sha256_of(folder / "model.pt")}}
    assert (
        sum(file.stat().st_size for file in folder.iterdir()) == results["blood"]["bytes"] <= models.MAX_SHIPPED_BYTES
    )


def test_half_precision_changes_next_to_nothing(results):
    assert 0 < results["blood"]["largest_change"] < 1e-3


def test_guide_and_card_say_what_was_found(results):
    guide = (ROOT / "docs" / "user_guide" / "share.md").read_text(encoding="utf-8")
    card = (models.SHIPPED / "blood" / "README.md").read_text(encoding="utf-8")
    for data, scores in results["blood"]["scores"].items():
        numbers = f"{scores['accuracy']:.3f} | {scores['macro_f1']:.3f} | {scores['n_cells']:,.0f}"
        assert numbers in guide
        section = card.split(f"### {data}\n")[1]
        assert section.lstrip().startswith(f"Accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}")


def test_model_that_is_judged_on_its_own_study_is_refused(monkeypatch):
    monkeypatch.setattr(models, "read_studies", dict)
    with pytest.raises(KeyError):
        models.read_config()
    files = {
        side["file"]: "one study" for model in _config().values() for side in (model["reference"], *model["judged"])
    }
    monkeypatch.setattr(models, "read_studies", lambda: files)
    with pytest.raises(SystemExit, match="blood is judged on the study that it is trained on"):
        models.read_config()


def test_model_that_is_too_large_is_not_shipped(tmp_path):
    (tmp_path / "model.pt").write_bytes(bytes(models.MAX_SHIPPED_BYTES + 1))
    with pytest.raises(SystemExit, match="takes 2,000,001 bytes, more than the 2,000,000"):
        models.ship(tmp_path)


def _config() -> dict:
    return tomllib.loads(Path(models.__file__).with_suffix(".toml").read_text(encoding="utf-8"))
