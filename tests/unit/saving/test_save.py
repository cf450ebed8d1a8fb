from __future__ import annotations

import os
from pathlib import Path

import pytest

from transanno.saving._save import save_model


class _Model:
    """Stands for a model: writes text, or fails half-way."""

    def __init__(self, text: str, *, fails: bool = False) -> None:
        self.text, self.fails = text, fails

    def save(self, folder: str, save_anndata: bool) -> None:
        assert not save_anndata
        Path(folder).mkdir()
        (Path(folder) / "model.pt").write_text(self.text)
        if self.fails:
            raise OSError("No space left on device")


def test_a_model_replaces_another_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    save_model(_Model("first"), folder)
    with pytest.raises(OSError, match="No space left"):
        save_model(_Model("ha", fails=True), folder)
    assert (folder / "model.pt").read_text() == "first"
    save_model(_Model("second"), folder)
    assert (folder / "model.pt").read_text() == "second"
    assert os.listdir(folder.parent) == ["model"]
    assert os.listdir(folder) == ["model.pt"]
