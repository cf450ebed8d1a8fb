"""Names of models, and where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from transanno.saving import _names
from transanno.saving._checksums import sha256_of, write_checksums
from transanno.saving._names import SHIPPED, folder_of


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch) -> None:
    """No registry of the user's, and an empty folder to be in."""
    monkeypatch.delenv("TRANSANNO_MODELS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "lung"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    return folder


def register(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_name():
    assert folder_of("blood") == SHIPPED.parent / "blood"


def test_folder_comes_before_a_name(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    model.rename("blood")
    assert folder_of("blood") == Path("blood")
    with pytest.raises(ValueError, match="revision='v1' is for the name of a repository.*not for the folder blood"):
        folder_of("blood", "v1")


def test_registry_that_the_variable_names(model, tmp_path, monkeypatch):
    text = f'[breath]\nfolder = "lung"\nsha256 = "{sha256_of(model / "model.pt")}"\n'
    monkeypatch.setenv("TRANSANNO_MODELS", str(register(tmp_path / "mine.toml", text)))
    assert folder_of("breath") == folder_of(Path("breath")) == model
    assert folder_of("blood") == SHIPPED.parent / "blood"  # is still there


def test_registry_in_the_configuration_folder_and_names_of_users_come_first(model, tmp_path):
    register(tmp_path / "config" / "transanno" / "models.toml", f'[blood]\nfolder = "{model.as_posix()}"\n')
    assert folder_of("blood") == model


def test_other_file_under_a_registered_name_is_refused(model, tmp_path, monkeypatch):
    text = f'[lung]\nfolder = "lung"\nsha256 = "{"0" * 64}"\n'
    monkeypatch.setenv("TRANSANNO_MODELS", str(register(tmp_path / "mine.toml", text)))
    with pytest.raises(
        ValueError,
        match=f"model.pt of the model 'lung' of .*mine.toml.* is not the file.*{sha256_of(model / 'model.pt')}",
    ):
        folder_of("lung")


def test_repository_of_a_registry(model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(_names, "download_model", lambda *args, **also: asked.append(args) or model)
    digest = sha256_of(model / "model.pt")
    text = f'[breath]\nrepo = "organization/lung"\nrevision = "v1"\nsha256 = "{digest}"\n'
    monkeypatch.setenv("TRANSANNO_MODELS", str(register(tmp_path / "mine.toml", text)))
    assert folder_of("breath") == model
    assert asked == [("organization/lung", "v1")]
    with pytest.raises(ValueError, match="revision='v2' is for the name of a repository"):
        folder_of("breath", "v2")


@pytest.mark.parametrize(
    "text",
    [
        "[lung]\nfolder = 3\n",
        '[lung]\nsha256 = "0"\n',
        '[lung]\nfolder = "lung"\nrepo = "organization/lung"\nsha256 = "0"\n',
        '[lung]\nrepo = "organization/lung"\n',
        '[lung]\nfolder = "lung"\nurl = "https://example.org"\n',
        'lung = "lung"\n',
    ],
)
def test_entry_that_says_something_else_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSANNO_MODELS", str(register(tmp_path / "mine.toml", text)))
    with pytest.raises(ValueError, match=r"\[lung\] of the registry of models .*Allowed: folder"):
        folder_of("blood")


def test_registry_that_is_no_toml_or_no_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSANNO_MODELS", str(register(tmp_path / "mine.toml", "[lung")))
    with pytest.raises(ValueError, match="cannot be read as TOML"):
        folder_of("blood")
    monkeypatch.setenv("TRANSANNO_MODELS", str(tmp_path / "other.toml"))
    with pytest.raises(ValueError, match="TRANSANNO_MODELS names .*other.toml, which is no file"):
        folder_of("blood")


@pytest.mark.parametrize("name", ["bloood", "../models/blood", "/models/blood", "a/b/c"])
def test_name_of_nothing(name):
    with pytest.raises(
        ValueError, match=f"'{name}' is neither a folder nor.*Names available: 'blood'.*looked for in .*models.toml"
    ):
        folder_of(name)


def test_changed_file_of_a_folder_with_checksums_is_refused(model):
    write_checksums(model, ["model.pt"])
    assert folder_of(model) == model
    (model / "model.pt").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="model.pt of .* is missing or not as SHA256SUMS says"):
        folder_of(model)
    (model / "model.pt").unlink()
    with pytest.raises(ValueError, match="model.pt of .* is missing"):
        folder_of(model)


@pytest.mark.parametrize(("listed", "message"), [("", "does not list model.pt"), ("0  ../outside\n", "outside of")])
def test_odd_checksums_are_refused(listed, message, model):
    write_checksums(model, ["model.pt"] if listed else [])
    with (model / "SHA256SUMS").open("a", encoding="utf-8") as file:
        file.write(listed)
    with pytest.raises(ValueError, match=message):
        folder_of(model)
