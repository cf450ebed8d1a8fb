"""The card of a saved model: what it knows, for people and programs that do not open it."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

CARD_FILE = "card.json"


def write_card(content: dict[str, Any], path: Path) -> None:
    """Content of a card, and the versions that made the model -> JSON file."""
    versions = {f"{name}_version": version(name) for name in ("transanno", "scvi-tools")}
    text = json.dumps(_finite({**content, **versions}), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def _finite(value: Any) -> Any:
    """Without NaN and infinity, which other readers of JSON refuse."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
